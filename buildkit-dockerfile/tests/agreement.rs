//! Details in which the reference is easily misread, each with the answer it gives.

mod support;

use buildkit_dockerfile::lower::{ImageRequest, Options, ResolveError, ResolvedImage, Resolver};
use buildkit_dockerfile::{Dockerfile, build};
use buildkit_frontend::Simulated;
use buildkit_llb::Platform;
use futures::executor::block_on;
use serde_json::Value;
use support::{Images, options};

/// The rules that fire, with their first lines.
fn fired(source: &str) -> Vec<(String, u32)> {
    let file = Dockerfile::parse(source).expect("a readable Dockerfile");
    let converted = block_on(file.to_llb(&options(), &Images));
    let warnings = converted.map(|converted| converted.warnings).unwrap_or_default();
    warnings.iter().map(|w| (w.rule.name.to_owned(), w.lines.start)).collect()
}

fn simulated(source: &str, opts: &[(&str, &str)]) -> Simulated {
    let simulated = Simulated::new().file("dockerfile", "Dockerfile", source.to_owned());
    opts.iter().fold(simulated, |simulated, (key, value)| simulated.option(*key, *value))
}

#[test]
fn arguments_that_stand_for_options_reach_the_next_frontend_as_options() {
    let simulated = simulated(
        "# syntax=other/frontend\nFROM scratch\n",
        &[("build-arg:BUILDKIT_MULTI_PLATFORM", "1"), ("build-arg:BUILDKIT_SANDBOX_HOSTNAME", "box")],
    );
    block_on(simulated.run(build)).unwrap();
    let solves = simulated.solves();
    let forwarded = &solves.last().unwrap().frontend_opt;
    assert_eq!(forwarded["source"], "other/frontend");
    assert_eq!(forwarded["multi-platform"], "1");
    assert_eq!(forwarded["hostname"], "box");
}

#[test]
fn a_context_that_no_stage_needs_is_not_looked_at() {
    let file = Dockerfile::parse("FROM alpine AS base\nFROM scratch\nCOPY a /\n").unwrap();
    let mut options = options();
    options.contexts.insert("base".into(), "no-such-scheme:x".into());
    assert!(block_on(file.to_llb(&options, &Images)).is_ok());

    let file = Dockerfile::parse("FROM alpine AS base\nFROM base\n").unwrap();
    let error = block_on(file.to_llb(&options, &Images)).unwrap_err();
    assert!(error.to_string().contains("no-such-scheme"), "{error}");
    assert_eq!(error.locations()[0].start, 1, "where the stage is defined");
}

#[test]
fn of_several_unusable_base_images_the_last_one_is_reported() {
    let file = Dockerfile::parse("FROM a: AS one\nFROM b: AS two\nFROM two\nCOPY --from=one x /\n").unwrap();
    let error = block_on(file.to_llb(&options(), &Images)).unwrap_err();
    assert_eq!(error.locations()[0].start, 2);
}

#[test]
fn every_word_of_a_mount_that_is_not_set_is_reported() {
    let twice = "FROM a\nRUN --mount=target=/x$NO,source=$NO --mount=type=cache,target=/y true\n";
    assert_eq!(fired(twice), [("UndefinedVar".to_owned(), 2), ("UndefinedVar".to_owned(), 2)]);
}

#[test]
fn a_declared_epoch_is_a_default_that_a_stage_may_override() {
    let file = Dockerfile::parse(
        "ARG SOURCE_DATE_EPOCH=100\nFROM a\nARG SOURCE_DATE_EPOCH=200\nENV T=$SOURCE_DATE_EPOCH\n",
    )
    .unwrap();
    let converted = block_on(file.to_llb(&options(), &Images)).unwrap();
    assert!(converted.image.config.env.contains(&"T=200".to_owned()), "{:?}", converted.image.config.env);
}

#[test]
fn limits_have_the_names_of_the_wire_in_converted_graphs() {
    let simulated = simulated(
        "FROM scratch\nRUN [\"x\"]\n",
        &[("requestid", "frontend.convertllb"), ("cpuquota", "1000"), ("cpusetmems", "0")],
    );
    let result = block_on(simulated.run(build)).unwrap();
    let json: Value = serde_json::from_slice(&result.metadata["result.json"]).unwrap();
    let limits = json["metadata"]
        .as_object()
        .unwrap()
        .values()
        .find_map(|metadata| metadata.get("linux_resources"))
        .expect("limits of the step");
    assert_eq!(*limits, serde_json::json!({"cpuQuota": 1000, "cpusetMems": "0"}));
}

#[test]
fn windows_is_listed_as_it_was_asked_for_and_described_as_it_is() {
    let config = r#"{"architecture":"amd64","os":"windows","os.version":"10.0.1","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:00"]}}"#;
    let digest = format!("sha256:{}", "b".repeat(64));
    let base = "mcr.microsoft.com/windows/nanoserver:latest";
    let platforms = |platform: &str| {
        let simulated = simulated("FROM mcr.microsoft.com/windows/nanoserver\n", &[("platform", platform)])
            .image(base, digest.clone(), config);
        let result = block_on(simulated.run(build)).unwrap();
        String::from_utf8(result.metadata["refs.platforms"].to_vec()).unwrap()
    };
    let listed = platforms("windows/amd64");
    assert!(listed.contains(r#""ID":"windows/amd64""#), "{listed}");
    assert!(listed.contains(r#""os.version":"10.0.1""#), "{listed}");
    assert!(!platforms("linux/amd64").contains("10.0.1"));
}

#[test]
fn unusable_check_options_stop_every_platform_before_it_starts() {
    let simulated =
        simulated("# check=bogus\nFROM alpine\nCOPY a /\n", &[("platform", "linux/amd64,linux/arm64")]);
    assert!(block_on(simulated.run(build)).is_err());
    assert_eq!(simulated.solves().len(), 1, "only the Dockerfile was read");
}

#[test]
fn a_check_looks_at_stages_that_a_context_stands_in_for() {
    let simulated = simulated(
        "FROM alpine AS base\nRUN --mount=type=secret,id=a,sharing=bad x\n",
        &[("requestid", "frontend.lint"), ("context:base", "docker-image://busybox")],
    )
    .image("docker.io/library/busybox:latest", "", r#"{"architecture":"amd64","os":"linux"}"#);
    let result = block_on(simulated.run(build)).unwrap();
    assert_eq!(result.metadata["result.statuscode"], "1");
}

/// The triggers of a base that are triggers themselves do not go on to its children, because those come first.
#[test]
fn stages_come_before_their_bases_when_triggers_are_added() {
    struct Triggering;
    #[async_trait::async_trait]
    impl Resolver for Triggering {
        async fn image(&self, request: &ImageRequest) -> Result<ResolvedImage, ResolveError> {
            let config = r#"{"architecture":"amd64","os":"linux","config":{"OnBuild":["ONBUILD RUN y"]}}"#;
            Ok(ResolvedImage { config: config.into(), ..Images.image(request).await? })
        }
    }
    let file = Dockerfile::parse("FROM a AS b\nFROM b AS c\nRUN x\n").unwrap();
    let converted = block_on(file.to_llb(&options(), &Triggering)).unwrap();
    assert!(!converted.image.history.iter().any(|entry| entry.created_by.contains("RUN y")));
}

/// Base images are looked up side by side: the last one is the first to fail, then they come in order.
#[test]
fn of_several_unusable_base_images_the_last_or_the_first_is_told() {
    for (last, line) in [("UP", 3), ("fine", 1)] {
        let source =
            format!("FROM UP AS a\nFROM UP AS b\nFROM {last}\nCOPY --from=a / /\nCOPY --from=b / /\n");
        let file = Dockerfile::parse(source).unwrap();
        let error = block_on(file.to_llb(&options(), &Images)).unwrap_err();
        assert_eq!(error.locations().iter().map(|lines| lines.start).collect::<Vec<_>>(), [line], "{last}");
    }
}

/// Below a local directory nothing is known of the platform until the stage is done.
#[test]
fn stages_on_a_directory_have_an_unknown_platform() {
    let simulated = simulated(
        "FROM a AS b\nFROM b AS c\nCOPY x /\nFROM c\nCOPY y /\n",
        &[("context:b", "local:d"), ("multi-platform", "1"), ("platform", "linux/arm64")],
    );
    block_on(simulated.run(build)).unwrap();
    let names: Vec<String> = simulated
        .solves()
        .iter()
        .filter_map(|solve| solve.definition.as_ref())
        .flat_map(|definition| definition.metadata.values())
        .filter_map(|metadata| metadata.description.get("llb.customname").cloned())
        .filter(|name| name.contains("COPY"))
        .collect();
    assert!(names.contains(&"[unknown c 1/1] COPY x /".to_owned()), "{names:?}");
    assert!(names.contains(&"[linux/arm64 stage-2 1/1] COPY y /".to_owned()), "{names:?}");
}

/// `\v` is no blank to the expression that takes the keyword off.
#[test]
fn triggers_keep_a_keyword_behind_odd_blanks() {
    let file = Dockerfile::parse("FROM a\n\\\n\u{b}ONBUILD RUN x\n \tonbuild RUN y\n").unwrap();
    let converted = block_on(file.to_llb(&options(), &Images)).unwrap();
    assert_eq!(converted.image.config.on_build, ["\u{b}ONBUILD RUN x", "RUN y"]);
}

/// The escape character of the file holds for `--from`, too.
#[test]
fn sources_of_copies_are_read_with_the_escape_character_of_the_file() {
    for (escape, error) in [("`", "no image reference"), ("\\", "variables are not replaced here")] {
        let source = format!("# escape={escape}\nFROM a\nCOPY --from=\\\\b x /\n");
        let file = Dockerfile::parse(source).unwrap();
        let found = block_on(file.to_llb(&options(), &Images)).unwrap_err().to_string();
        assert!(found.contains(error), "{found}");
    }
}

/// Superscripts and Roman numbers are neither letters nor digits.
#[test]
fn names_of_variables_end_at_number_forms() {
    for (word, value) in
        [("$A\u{b2}", "v\u{b2}"), ("$A\u{2167}", "v\u{2167}"), ("$A\u{e9}", ""), ("$A\u{663}", "")]
    {
        let file = Dockerfile::parse(format!("FROM a\nARG A=v\nENV X={word}\n")).unwrap();
        let converted = block_on(file.to_llb(&options(), &Images)).unwrap();
        assert_eq!(converted.image.config.env.last().unwrap(), &format!("X={value}"));
    }
}

/// A path with a second drive is caught where the whole path is looked at.
#[test]
fn required_paths_are_checked_for_drives_as_a_whole() {
    let convert = |path: &str| {
        let file = Dockerfile::parse(format!("# escape=`\nFROM scratch\nCOPY --parents {path} x\n")).unwrap();
        let windows = Options::default().session("sess").platform(&Platform::WINDOWS_AMD64);
        block_on(file.to_llb(&windows, &Images)).map(|_| ())
    };
    assert!(convert("C:\\a").is_ok());
    assert!(convert("C:\\C:\\a").is_err());
    assert!(convert("C:\\C:\\a*").is_ok());
}

/// Options for the daemon are read, too: whoever passes a broken one is told by the frontend.
#[test]
fn lists_of_attestations_are_checked() {
    for (value, ok) in [("mode=max", true), ("mode=max\n", true), ("", true), ("\n", false), ("\"min", false)]
    {
        let build_it = simulated("FROM scratch\n", &[("attest:provenance", value)]);
        assert_eq!(block_on(build_it.run(build)).is_ok(), ok, "{value:?}");
    }
}
