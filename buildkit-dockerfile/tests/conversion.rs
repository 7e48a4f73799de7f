//! Conversions without a daemon: digests of known graphs, and bounds on hostile input.

use std::fmt::Write as _;

use buildkit_dockerfile::lower::{ImageRequest, Options, ResolveError, ResolvedImage, Resolver};
use buildkit_dockerfile::{Dockerfile, ErrorKind};
use futures::executor::block_on;

const DIFF_ID: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Every image exists, has one layer, and the triggers given.
struct Images {
    triggers: fn(&str) -> Vec<String>,
}

#[async_trait::async_trait]
impl Resolver for Images {
    async fn image(&self, request: &ImageRequest) -> Result<ResolvedImage, ResolveError> {
        let config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"OnBuild": (self.triggers)(&request.reference)},
            "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]},
        });
        Ok(ResolvedImage {
            reference: request.reference.clone(),
            digest: format!("sha256:{}", "b".repeat(64)),
            config: config.to_string().into(),
        })
    }
}

const PLAIN: Images = Images { triggers: |_| Vec::new() };

fn convert(
    source: &str,
    images: &Images,
) -> buildkit_dockerfile::Result<buildkit_dockerfile::lower::Converted> {
    let options = Options::default().session("sess").platform(&buildkit_llb::Platform::LINUX_AMD64);
    block_on(Dockerfile::parse(source)?.to_llb(&options, images))
}

#[test]
fn graphs_have_the_digests_of_the_reference() {
    let cases = [
        (
            "FROM scratch\nCOPY app /bin/app\nCMD [\"/bin/app\"]\n",
            "e1c75e8f8054840ef971f9379243ebd02e14479376cc21e8dc828ce887cc75b2",
        ),
        (
            "FROM scratch\nCOPY --chown=bob: a /1\nCOPY --chown=:staff a /2\nCOPY --chown=-1:4294967295 a /3\nCOPY --chown=root:root a /4\nCOPY --chmod=07777 --chown=0 a /5\nCOPY --chmod=+x a /6\n",
            "6fd1d554c083d75bcf09f9bb56cf6f8242a83071a92e55511566856284812c9f",
        ),
    ];
    for (source, root) in cases {
        let converted = convert(source, &PLAIN).unwrap();
        let last = converted.definition.ops().next_back().unwrap().digest();
        assert_eq!(last.to_string(), format!("sha256:{root}"), "{source}");
    }
}

#[test]
fn triggers_that_lead_to_their_own_image_are_an_error() {
    let images = Images { triggers: |_| vec!["COPY --from=loop /a /a".to_owned()] };
    let error = convert("FROM loop\n", &images).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert_eq!(error.locations().len(), 1);
}

#[test]
fn triggers_that_lead_ever_further_are_an_error() {
    let images = Images {
        triggers: |reference| {
            let n: u64 = reference.rsplit(['n', ':']).nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
            vec![format!("COPY --from=n{} /a /a", n + 1)]
        },
    };
    assert_eq!(convert("FROM n1\n", &images).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn graphs_much_larger_than_their_file_are_an_error() {
    let mut source = String::from("FROM scratch\n");
    for n in 0..4000 {
        writeln!(source, "ENV V{n}={}\nRUN x", "y".repeat(40)).unwrap();
    }
    assert_eq!(convert(&source, &PLAIN).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn histories_of_long_chains_of_stages_are_bounded() {
    let mut source = String::from("FROM scratch AS s0\n");
    for n in 1..6000 {
        writeln!(source, "FROM s{} AS s{n}\nLABEL a=b", n - 1).unwrap();
    }
    assert_eq!(convert(&source, &PLAIN).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn circles_of_stages_name_every_step() {
    let error = convert("FROM a1 AS a\nCOPY --from=b /x /x\nFROM a2 AS b\nCOPY --from=a /x /x\n", &PLAIN)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stage);
    assert_eq!(error.locations().iter().map(|l| l.start).collect::<Vec<_>>(), [2, 4]);
}

const DEVICE: &str = "FROM alpine\nRUN --device=vendor.com/gpu=all,required nvidia-smi\n";

#[test]
fn devices_are_refused_in_the_stable_channel() {
    let error = convert(DEVICE, &PLAIN).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.locations().iter().map(|l| l.start).collect::<Vec<_>>(), [2]);
}

#[cfg(feature = "labs")]
#[test]
fn devices_reach_the_process_in_the_labs_channel() {
    let mut options = Options::default().session("sess").platform(&buildkit_llb::Platform::LINUX_AMD64);
    options.channel = buildkit_dockerfile::lower::Channel::Labs;
    let converted = block_on(Dockerfile::parse(DEVICE).unwrap().to_llb(&options, &PLAIN)).unwrap();
    let exec = converted.definition.ops().find_map(|op| match op.message().unwrap().op {
        Some(buildkit_proto::pb::op::Op::Exec(exec)) => Some(exec),
        _ => None,
    });
    let devices = exec.unwrap().cdi_devices;
    assert_eq!(
        devices.iter().map(|d| (d.name.as_str(), d.optional)).collect::<Vec<_>>(),
        [("vendor.com/gpu=all", false)]
    );
}

/// What one URL says holds for those after it too.
#[test]
fn checksums_of_git_urls_are_kept_and_do_not_contradict() {
    let (commit, other) = ("c".repeat(40), "d".repeat(40));
    let add = |words: &str| convert(&format!("FROM scratch\nADD {words} /src/\n"), &PLAIN);
    let first = format!("https://example.com/a.git?commit={commit}");
    let converted = add(&format!("{first} https://example.com/b.git")).unwrap();
    let sources = converted.definition.ops().filter_map(|op| match op.message().unwrap().op {
        Some(buildkit_proto::pb::op::Op::Source(source)) => source.attrs.get("git.checksum").cloned(),
        _ => None,
    });
    assert_eq!(sources.collect::<Vec<_>>(), [commit.as_str(), commit.as_str()]);
    for words in
        [format!("{first} https://example.com/b.git?commit={other}"), format!("--checksum={other} {first}")]
    {
        assert_eq!(add(&words).unwrap_err().kind(), ErrorKind::Instruction, "{words}");
    }
}

#[test]
fn owned_caches_begin_as_a_directory_that_all_may_enter() {
    use buildkit_proto::pb::{file_action::Action, op::Op};
    let source = "FROM alpine\nRUN --mount=type=cache,target=/c,uid=1000 true\n";
    let converted = convert(source, &PLAIN).unwrap();
    let made = converted.definition.ops().find_map(|op| match op.message().unwrap().op {
        Some(Op::File(file)) => file.actions.into_iter().find_map(|action| match action.action {
            Some(Action::Mkdir(dir)) => Some((dir.path, dir.mode)),
            _ => None,
        }),
        _ => None,
    });
    assert_eq!(made, Some(("/cache".to_owned(), 0o755)));
}

#[test]
fn directories_without_a_session_are_those_of_one_conversion() {
    let bytes = || {
        let file = Dockerfile::parse("FROM scratch\nCOPY a /a\n").unwrap();
        block_on(file.to_llb(&Options::default(), &PLAIN)).unwrap().definition.to_bytes()
    };
    assert_ne!(bytes(), bytes());
}

#[test]
fn conversions_are_reproducible() {
    let source = "FROM alpine\nCOPY --link a /a\nRUN --mount=type=cache,target=/c true\n";
    let bytes = || convert(source, &PLAIN).unwrap().definition.to_bytes();
    assert_eq!(bytes(), bytes());
}

#[test]
fn outlines_list_arguments_and_secrets() {
    let file = Dockerfile::parse(
        "# V the version\nARG V=1\nFROM alpine:${V} AS base\nARG B\n# app the application\nFROM base AS app\nRUN --mount=type=secret,id=s1 --mount=type=ssh,required true\n",
    )
    .unwrap();
    let options = Options::default().target("app").build_arg("B", "2");
    let outline = block_on(file.outline(&options, &PLAIN)).unwrap();
    let args: Vec<_> = outline.args.iter().map(|a| (a.name.as_str(), a.value.as_str())).collect();
    assert_eq!(args, [("V", "1"), ("B", "2")]);
    assert_eq!(outline.description, "the application");
    assert_eq!(outline.secrets.first().map(|s| s.name.as_str()), Some("s1"));
    assert!(outline.ssh.iter().all(|s| s.name == "default" && s.required));
}

#[test]
fn outlines_list_an_agent_once_with_and_without_its_usual_name() {
    let file = Dockerfile::parse(
        "FROM alpine\nRUN --mount=type=ssh a\nRUN --mount=type=ssh,id=default,required b\nRUN --mount=type=ssh,id=x c\n",
    )
    .unwrap();
    let outline = block_on(file.outline(&Options::default(), &PLAIN)).unwrap();
    let agents: Vec<_> = outline.ssh.iter().map(|s| (s.name.as_str(), s.required)).collect();
    assert_eq!(agents, [("default", false), ("x", false)]);
}
