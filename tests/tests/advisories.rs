//! What went wrong in software of this kind, and must not go wrong here. Each test carries the id of its advisory.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use buildkit_client::content::OciLayout;
use buildkit_dockerfile::Dockerfile;
use buildkit_dockerfile::lower::{ImageRequest, Options, ResolveError, ResolvedImage, Resolver};
use buildkit_llb::{self as llb, Definition, Platform, State};
use buildkit_proto::pb;

/// Every image exists.
struct Images;

#[async_trait::async_trait]
impl Resolver for Images {
    async fn image(&self, request: &ImageRequest) -> Result<ResolvedImage, ResolveError> {
        let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {}});
        let digest = format!("sha256:{}", "b".repeat(64));
        Ok(ResolvedImage { reference: request.reference.clone(), digest, config: config.to_string().into() })
    }
}

async fn convert(source: &str) -> buildkit_dockerfile::Result<Definition> {
    let options = Options::default().session("sess").platform(&Platform::LINUX_AMD64);
    Ok(Dockerfile::parse(source)?.to_llb(&options, &Images).await?.definition)
}

fn ops(definition: &Definition) -> Vec<pb::op::Op> {
    definition.ops().filter_map(|op| op.message().unwrap().op).collect()
}

fn marshal(state: &State) -> Vec<pb::op::Op> {
    ops(&state.marshal(Platform::LINUX_AMD64).unwrap())
}

fn has_dotdot(path: &str) -> bool {
    path.split(['/', '\\']).any(|part| part == "..")
}

/// Paths that a graph names, of whatever kind.
fn paths(ops: &[pb::op::Op]) -> Vec<String> {
    let mut paths = Vec::new();
    for op in ops {
        match op {
            pb::op::Op::Exec(exec) => {
                paths.extend(
                    exec.mounts.iter().flat_map(|mount| [mount.selector.clone(), mount.dest.clone()]),
                );
            }
            pb::op::Op::File(file) => {
                for action in file.actions.iter().filter_map(|action| action.action.as_ref()) {
                    match action {
                        pb::file_action::Action::Copy(copy) => {
                            paths.extend([copy.src.clone(), copy.dest.clone()]);
                        }
                        pb::file_action::Action::Rm(rm) => paths.push(rm.path.clone()),
                        pb::file_action::Action::Mkdir(dir) => paths.push(dir.path.clone()),
                        pb::file_action::Action::Mkfile(file) => paths.push(file.path.clone()),
                        pb::file_action::Action::Symlink(_) => {}
                    }
                }
            }
            pb::op::Op::Source(source) => paths.extend(source.attrs.get("http.filename").cloned()),
            _ => {}
        }
    }
    paths
}

#[tokio::test]
async fn cve_2026_33747_names_of_downloads_are_plain_names() {
    for url in [
        "https://example.com/..",
        "https://example.com/a/..",
        "https://example.com/%2e%2e",
        "https://example.com/x%2f..%2f..%2fevil",
        "https://example.com/..%2f..%2fevil/..",
        "https://example.com/.",
        "https://example.com/",
    ] {
        let definition = convert(&format!("FROM scratch\nADD {url} /in/\n")).await.unwrap();
        for path in paths(&ops(&definition)) {
            assert!(!has_dotdot(&path), "{url}: {path:?}");
        }
        let names = ops(&definition).into_iter().filter_map(|op| match op {
            pb::op::Op::Source(source) => source.attrs.get("http.filename").cloned(),
            _ => None,
        });
        for name in names {
            assert!(!name.is_empty() && name != "." && !name.contains('/'), "{url}: {name:?}");
        }
    }
}

#[tokio::test]
async fn cve_2026_33748_directories_of_git_sources_stay_in_the_repository() {
    for fragment in ["main:..", "main:../..", "main:a/../../..", "main:/../etc", "main:./../x", ":.."] {
        let source = marshal(&llb::Git::new("https://example.com/r.git", fragment).into());
        let Some(pb::op::Op::Source(source)) = source.first() else { panic!("{source:?}") };
        assert!(!has_dotdot(&source.identifier), "{fragment}: {}", source.identifier);
        let added = convert(&format!("FROM scratch\nADD https://example.com/r.git#{fragment} /in\n")).await;
        let identifiers = added.iter().flat_map(ops).filter_map(|op| match op {
            pb::op::Op::Source(source) => Some(source.identifier),
            _ => None,
        });
        for identifier in identifiers {
            assert!(!has_dotdot(&identifier), "{fragment}: {identifier}");
        }
    }
}

#[test]
fn ghsa_32pv_7hq5_qhwq_removals_are_anchored_at_the_root() {
    let base = llb::image("alpine");
    for path in ["..", "../../..", "/a/..", "/../x", "a/../../b", "/.."] {
        let ops = marshal(&base.clone().dir("/work").rm(path));
        let removed: Vec<_> = paths(&ops);
        assert!(!removed.is_empty());
        for removed in removed {
            assert!(removed.starts_with('/') && !has_dotdot(&removed), "{path}: {removed}");
        }
    }
}

#[tokio::test]
async fn cve_2024_1753_sources_of_mounts_stay_below_what_they_are_taken_from() {
    for source in ["/", "../../..", "/../etc", "a/../../b", "..", "./.."] {
        for from in ["", ",from=alpine"] {
            let file = format!(
                "FROM alpine\nRUN --mount=type=bind{from},source={source},target=/mnt,rw touch /mnt/x\n"
            );
            if let Ok(definition) = convert(&file).await {
                for path in paths(&ops(&definition)) {
                    assert!(!has_dotdot(&path), "{source}{from}: {path}");
                }
            }
        }
    }
}

#[tokio::test]
async fn cve_2024_9407_options_of_mounts_are_a_closed_list() {
    for option in [
        "bind-propagation=rshared",
        "bind-propagation=shared",
        "propagation=rshared",
        "z",
        "relabel=shared",
        "sharing=private",
    ] {
        let file = format!("FROM alpine\nRUN --mount=type=bind,source=a,target=/mnt,{option} true\n");
        assert!(convert(&file).await.is_err(), "{option}");
    }
}

#[tokio::test]
async fn cve_2024_9675_ids_of_caches_are_names_not_paths() {
    for id in ["../../../../etc", "/etc", "a/../../b"] {
        let file = format!("FROM alpine\nRUN --mount=type=cache,id={id},target=/cache,source=../../x true\n");
        let Ok(definition) = convert(&file).await else { continue };
        for path in paths(&ops(&definition)) {
            assert!(!has_dotdot(&path), "{id}: {path}");
        }
        // The daemon looks the id up; it is handed on as it is and joined to nothing.
        let ids: Vec<_> = ops(&definition)
            .into_iter()
            .filter_map(|op| match op {
                pb::op::Op::Exec(exec) => Some(exec),
                _ => None,
            })
            .flat_map(|exec| exec.mounts.into_iter().filter_map(|mount| mount.cache_opt))
            .map(|cache| cache.id)
            .collect();
        assert_eq!(ids.len(), 1);
        assert!(ids[0].ends_with(id.trim_start_matches('/')) || ids[0] == id, "{ids:?}");
    }
}

#[tokio::test]
async fn cve_2023_25153_what_is_read_of_a_layout_has_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let index = std::fs::File::create(dir.path().join("index.json")).unwrap();
    index.set_len(1 << 40).unwrap();
    let error = OciLayout::new(dir.path()).find("latest").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
}
