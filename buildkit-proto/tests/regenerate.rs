//! The checked-in code is what the `.proto` files give.
//!
//! A stale file is rewritten and the test fails once, so a developer runs it
//! again and commits the change, and a machine that only checks turns red.
//! `cargo xtask codegen` runs this test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The roots of the contract; everything else is imported by one of them.
const FILES: &[&str] = &[
    "buildkit/control.proto",
    "buildkit/errdefs.proto",
    "buildkit/gateway.proto",
    "buildkit/policysession.proto",
    "external/content.proto",
    "external/health.proto",
    "external/trace.proto",
    "session/auth.proto",
    "session/exporter.proto",
    "session/filesync.proto",
    "session/secrets.proto",
    "session/sshforward.proto",
    "session/upload.proto",
];

/// Messages whose `Debug` is written by hand because they hold secrets.
const SECRET: &[&str] = &[
    ".moby.filesync.v1.CredentialsResponse",
    ".moby.filesync.v1.FetchTokenResponse",
    ".moby.buildkit.secrets.v1.GetSecretResponse",
];

fn generate(proto: &Path, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(FILES, [proto])?;
    let mut config = prost_build::Config::new();
    config
        .btree_map(["."])
        .bytes(["."])
        .skip_debug(SECRET)
        .extern_path(".moby.filesync.v1.RawMessage", "crate::filesync::RawMessage");
    let gated = r#"#[cfg(feature = "grpc")]"#;
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::bounded::BoundedCodec")
        .client_mod_attribute(".", gated)
        .server_mod_attribute(".", gated)
        .out_dir(out)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

fn rust_files(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = PathBuf::from(entry?.file_name());
        if name.extension().is_some_and(|e| e == "rs") && name != Path::new("mod.rs") {
            names.insert(name);
        }
    }
    Ok(names)
}

#[test]
fn checked_in_code_is_what_the_proto_files_give() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked_in = root.join("src/generated");
    let fresh = tempfile::tempdir().unwrap();
    generate(&root.join("proto"), fresh.path()).unwrap();

    let wanted = rust_files(fresh.path()).unwrap();
    let mut stale = Vec::new();
    for name in &wanted {
        let new = fs::read(fresh.path().join(name)).unwrap();
        let path = checked_in.join(name);
        if fs::read(&path).ok().as_deref() != Some(&new[..]) {
            fs::write(path, new).unwrap();
            stale.push(name.clone());
        }
    }
    for name in rust_files(&checked_in).unwrap().difference(&wanted) {
        fs::remove_file(checked_in.join(name)).unwrap();
        stale.push(name.clone());
    }
    assert!(stale.is_empty(), "generated code was stale and has been rewritten, commit it: {stale:?}");
}

#[test]
fn every_proto_file_is_compiled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let compiled: BTreeSet<String> =
        protox::compile(FILES, [&root]).unwrap().file.into_iter().filter_map(|f| f.name).collect();
    for folder in ["buildkit", "external", "session"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let name = format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy());
            assert!(compiled.contains(&name), "{name} is not reached from FILES");
        }
    }
}
