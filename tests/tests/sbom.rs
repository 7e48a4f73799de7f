//! SBOMs on a real BuildKit, by a scanner that is made here: it keeps to BuildKit's protocol for scanners and writes
//! down what it was given to look at.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use buildkit_client::dockerfile::Dockerfile;
use buildkit_client::export::Export;
use buildkit_client::{Client, Solve};
use buildkit_fsutil::memory::MemoryTree;
use buildkit_llb::Platform;
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::oci::Layout;
use serde_json::Value;

const SPDX: &str = "https://spdx.dev/Document";

/// Each scan is a document whose packages are the files of the tree, and whose comments tell of the parameters.
const SCANNER: &str = r#"#!/bin/sh
set -eu
test -w /tmp
document() { # a tree, and the name of its document
  ! touch "$1/probe" 2>/dev/null
  {
    printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":'
    printf '{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"%s",' "$2"
    printf '"comment":"color=%s","packages":[' "${BUILDKIT_SCAN_color-}"
    comma=
    for file in $(cd "$1" && find . -type f -name '*.pkg' | sort); do
      printf '%s{"name":"%s"}' "$comma" "$file"; comma=,
    done
    printf ']}}'
  } > "$BUILDKIT_SCAN_DESTINATION/$2.spdx.json"
}
document "$BUILDKIT_SCAN_SOURCE" "$(basename "$BUILDKIT_SCAN_SOURCE")"
if [ -d "${BUILDKIT_SCAN_SOURCE_EXTRAS-}" ]; then
  for extra in "$BUILDKIT_SCAN_SOURCE_EXTRAS"/*; do document "$extra" "$(basename "$extra")"; done
fi
"#;

/// Builds the scanner, a shell and the script, and pushes it.
async fn scanner(daemon: &Daemon, client: &Client) -> String {
    let name = format!("{}:1", daemon.registries.mirror.repository("scanner"));
    let text = "FROM alpine\nCOPY scan /scan\nENTRYPOINT [\"/scan\"]\n";
    let tree = MemoryTree::new().file("Dockerfile", text).executable("scan", SCANNER);
    done(client.solve(Dockerfile::new(tree)).export(Export::image(&name).push())).await;
    name
}

async fn done(solve: Solve) {
    solve.await.unwrap_or_else(|error| panic!("{}", error.report()));
}

/// What is built: its result has one package, and its stage and its context have others.
fn context(scan_extras: bool) -> MemoryTree {
    let args = if scan_extras {
        "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nARG BUILDKIT_SBOM_SCAN_STAGE=true\n"
    } else {
        ""
    };
    let text = format!(
        "{args}FROM scratch AS tools\n{args}COPY a.pkg /tool.pkg\nFROM scratch\nCOPY --from=tools / /opt/\n"
    );
    MemoryTree::new().file("Dockerfile", text).file("a.pkg", "a").file("b.pkg", "b")
}

/// The statements of the attestation manifests in an index, by platform, and by the name of the document.
fn statements(dir: &Path) -> BTreeMap<String, BTreeMap<String, Value>> {
    let layout = Layout::from_dir(dir);
    let index = layout.blob_json(&layout.only());
    let manifests = index["manifests"].as_array().unwrap();
    let images: BTreeMap<_, _> = manifests
        .iter()
        .filter(|entry| entry["platform"]["os"] != "unknown")
        .map(|entry| (entry["digest"].as_str().unwrap(), entry["platform"]["architecture"].as_str().unwrap()))
        .collect();
    let mut found = BTreeMap::new();
    for entry in manifests.iter().filter(|entry| entry["platform"]["os"] == "unknown") {
        let annotations = &entry["annotations"];
        assert_eq!(annotations["vnd.docker.reference.type"], "attestation-manifest");
        let subject = annotations["vnd.docker.reference.digest"].as_str().unwrap();
        let manifest = layout.blob_json(entry);
        let mut documents = BTreeMap::new();
        for layer in manifest["layers"].as_array().unwrap() {
            assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
            let statement = layout.blob_json(layer);
            assert_eq!(layer["annotations"]["in-toto.io/predicate-type"], statement["predicateType"]);
            if statement["predicateType"] != SPDX {
                continue;
            }
            let digest = subject.strip_prefix("sha256:").unwrap();
            assert_eq!(statement["subject"][0]["digest"]["sha256"], digest, "it is about the image");
            let predicate = statement["predicate"].clone();
            documents.insert(predicate["name"].as_str().unwrap().to_owned(), predicate);
        }
        found.insert(images[subject].to_owned(), documents);
    }
    found
}

fn packages(document: &Value) -> Vec<&str> {
    document["packages"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap()).collect()
}

async fn scanned(solve: Solve) -> BTreeMap<String, BTreeMap<String, Value>> {
    let dir = tempfile::tempdir().unwrap();
    done(solve.export(Export::oci_dir(dir.path().join("out")).name("example.org/scanned:1"))).await;
    statements(&dir.path().join("out"))
}

#[tokio::test]
async fn a_scanner_writes_the_sbom_of_an_image() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let scanner = scanner(&daemon, &client).await;
    let build = |extras| client.solve(Dockerfile::new(context(extras)));

    let found = scanned(build(false).attest_sbom_with(&scanner)).await;
    assert_eq!(found.len(), 1, "one platform");
    let documents = found.values().next().unwrap();
    assert_eq!(documents.keys().collect::<Vec<_>>(), ["sbom"]);
    assert_eq!(packages(&documents["sbom"]), ["./opt/tool.pkg"]);
    assert_eq!(documents["sbom"]["comment"], "color=");

    let found = scanned(build(true).opt("attest:sbom", format!("generator={scanner},color=red"))).await;
    let documents = found.values().next().unwrap();
    assert_eq!(documents.keys().collect::<Vec<_>>(), ["sbom", "sbom-context", "sbom-tools"]);
    // What was sent of it: the daemon has asked for nothing else.
    assert_eq!(packages(&documents["sbom-context"]), ["./a.pkg"]);
    assert_eq!(packages(&documents["sbom-tools"]), ["./tool.pkg"]);
    assert_eq!(documents["sbom"]["comment"], "color=red");
}

#[tokio::test]
async fn a_graph_has_an_sbom_as_well() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let scanner = scanner(&daemon, &client).await;
    let graph = buildkit_llb::scratch().mkfile("/a.pkg", 0o644, "a");
    let found = scanned(client.solve(graph).attest_sbom_with(&scanner)).await;
    let documents = found.values().next().unwrap();
    assert_eq!(packages(&documents["sbom"]), ["./a.pkg"]);
}

#[tokio::test]
async fn each_platform_has_its_sbom_and_our_frontend_has_them_made_as_the_daemons_does() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let scanner = scanner(&daemon, &client).await;
    let platforms: [Platform; 2] = ["linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap()];
    let dockerfile = || platforms.iter().fold(Dockerfile::new(context(true)), Dockerfile::platform);
    let theirs = scanned(client.solve(dockerfile()).attest_sbom_with(&scanner)).await;
    assert_eq!(theirs.keys().collect::<Vec<_>>(), ["amd64", "arm64"]);
    for documents in theirs.values() {
        assert_eq!(documents.keys().collect::<Vec<_>>(), ["sbom", "sbom-context", "sbom-tools"]);
        assert_eq!(packages(&documents["sbom"]), ["./opt/tool.pkg"]);
    }
    let in_process = client.build(buildkit_dockerfile::build).dockerfile(dockerfile());
    assert_eq!(scanned(in_process.attest_sbom_with(&scanner)).await, theirs);
}

#[tokio::test]
async fn a_scanner_that_cannot_be_used_is_named() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let missing = format!("{}:none", daemon.registries.mirror.repository("no-scanner"));
    let error = client.solve(Dockerfile::new(context(false))).attest_sbom_with(&missing).await.unwrap_err();
    assert!(error.report().contains(&missing), "{}", error.report());
    let ours = client.build(buildkit_dockerfile::build).dockerfile(Dockerfile::new(context(false)));
    let error = ours.attest_sbom_with(&missing).await.unwrap_err();
    assert!(error.report().contains(&missing), "{}", error.report());
}
