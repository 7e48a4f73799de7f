//! Options and accessors, one by one, as far as the worked programs do not use them.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;

use buildkit_llb::caps::ServerCaps;
use buildkit_llb::{
    BuildOp, Constraints, CustomKind, CustomMount, Definition, EnvList, Error, ErrorKind, Git, GitBundle,
    GitSignature, Http, Image, Local, MarshalOptions, MkFile, Mount, Network, OpMetadata, Passthrough,
    Platform, Range, RecordType, ResolveMode, Security, Source, SourceMap, Ssh, State, Timestamp, diff,
    image, local, merge, scratch,
};

fn marshal(state: impl Into<State>) -> Definition {
    state.into().marshal(MarshalOptions::new(Platform::LINUX_AMD64).unique_id("u")).unwrap()
}

fn error(state: impl Into<State>) -> Error {
    state.into().marshal(Platform::LINUX_AMD64).unwrap_err()
}

/// The first op as JSON.
fn first(state: impl Into<State>) -> serde_json::Value {
    marshal(state).ops().next().unwrap().to_json().unwrap()
}

fn attrs(state: impl Into<State>) -> BTreeMap<String, String> {
    serde_json::from_value(first(state)["source"]["attrs"].clone()).unwrap_or_default()
}

fn caps(state: impl Into<State>) -> Vec<String> {
    let definition = marshal(state);
    definition.ops().next().unwrap().metadata().caps.iter().map(|(name, _)| name.to_owned()).collect()
}

fn metadata(state: impl Into<State>) -> OpMetadata {
    marshal(state).ops().next().unwrap().metadata().clone()
}

#[test]
fn a_state_tells_how_processes_run() {
    let state = scratch()
        .env("A", "1")
        .dir("/d")
        .user("u:g")
        .hostname("h")
        .network(Network::Host)
        .security(Security::Insecure)
        .add_host("db", [1, 2, 3, 4])
        .ulimit("core", 1, 2)
        .cgroup_parent("cg")
        .platform(&Platform::new("Linux", "aarch64"));
    let context = state.context();
    assert_eq!(context.env().value("A"), Some("1"));
    assert_eq!((context.dir(), context.user(), context.hostname()), ("/d", Some("u:g"), Some("h")));
    assert_eq!((context.network(), context.security()), (Network::Host, Security::Insecure));
    assert_eq!((context.hosts().len(), context.ulimits()[0].hard), (1, 2));
    assert_eq!((context.cgroup_parent(), context.platform()), (Some("cg"), Some(&Platform::LINUX_ARM64)));
    let list: EnvList = [("X", "y")].into_iter().collect();
    let mut edited = state.env_list(list).context().env().clone();
    edited.remove("X");
    assert!(edited.is_empty());
    // A state that was taken by its tree alone knows nothing of it.
    assert_eq!(image("a").env("A", "1").dir("/x").fresh().context().dir(), "/");
    assert_eq!(scratch().dir("/x").with_output(&image("a")).context().dir(), "/x");
}

#[test]
fn a_relative_directory_is_below_the_one_before() {
    let dir = |steps: &[&str]| {
        let state = steps.iter().copied().fold(scratch(), State::dir);
        state.context().dir().to_owned()
    };
    assert_eq!(dir(&["/a//b"]), "/a//b", "an absolute one is kept as written");
    assert_eq!(dir(&["/a//b", "../c"]), "/a/c");
    assert_eq!(dir(&["x"]), "/x");
    assert_eq!(dir(&["/a", ""]), "/a");
}

#[test]
fn a_state_carries_values_of_the_program() {
    #[derive(Debug, PartialEq)]
    struct Flavor(&'static str);
    let state = image("a").value(Flavor("old")).value(7_u8).value(Flavor("new"));
    let later = state.run(["x"]).root().mkdir("/d", 0o755);
    assert_eq!((later.context().value(), later.context().value()), (Some(&Flavor("new")), Some(&7_u8)));
    assert_eq!(later.context().value::<String>(), None);
    assert_eq!(marshal(&state), marshal(image("a")), "they are part of no op");
}

#[test]
fn images_say_where_they_are_looked_for_and_why() {
    for (mode, want) in
        [(ResolveMode::Default, None), (ResolveMode::Pull, Some("pull")), (ResolveMode::Local, Some("local"))]
    {
        let image = Image::new("a").resolve_mode(mode);
        assert_eq!(attrs(image).get("image.resolvemode").map(String::as_str), want);
    }
    for (record, want) in [
        (RecordType::Frontend, "frontend"),
        (RecordType::Regular, "regular"),
        (RecordType::Internal, "internal"),
    ] {
        assert_eq!(attrs(Image::new("a").record_type(record))["image.recordtype"], want);
    }
    assert!(attrs(Image::new("a").record_type(RecordType::Unset)).is_empty());
}

#[test]
fn git_checks_signatures() {
    let signature = GitSignature {
        public_key: "KEY".into(),
        reject_expired: true,
        require_signed_tag: true,
        ignore_signed_tag: false,
    };
    let git = Git::new("https://h/x.git", "v1").verify_signature(signature);
    let attrs = attrs(git.clone());
    assert_eq!(attrs["git.sig.pubkey"], "KEY");
    assert_eq!(
        (attrs["git.sig.rejectexpired"].as_str(), attrs["git.sig.requiresignedtag"].as_str()),
        ("true", "true")
    );
    assert!(!attrs.contains_key("git.sig.ignoresignedtag"));
    assert!(caps(git).contains(&"source.git.signatureverify".to_owned()));
}

#[test]
fn git_remotes_are_read_as_users_write_them() {
    let git = |text: &str| Git::from_ref(&buildkit_llb::git_url::GitRef::parse(text).unwrap());
    let all = git(
        "https://h/x.git?tag=v1&subdir=d&commit=ab&keep-git-dir&submodules=0&fetch-by-commit=1&mtime=commit",
    );
    assert_eq!(first(all.clone())["source"]["identifier"], "git://h/x.git#refs/tags/v1:d");
    let attrs_of = attrs(all);
    for (key, value) in [
        ("git.checksum", "ab"),
        ("git.keepgitdir", "true"),
        ("git.skipsubmodules", "true"),
        ("git.fetchbycommit", "true"),
        ("git.mtime", "commit"),
        ("git.fullurl", "https://h/x.git"),
    ] {
        assert_eq!(attrs_of[key], value);
    }
    // What looks like no protocol is taken for https, and what cannot be read even so is kept whole.
    assert_eq!(first(Git::new("h:no-port/x", "main"))["source"]["identifier"], "git://https://h:no-port/x");
    // An agent is for SSH only.
    assert!(
        !attrs(Git::new("https://h/x.git", "").ssh_sock("s").known_hosts("h k"))
            .contains_key("git.mountsshsock")
    );
}

#[test]
fn downloads_have_modes_owners_and_headers() {
    let attrs_of = attrs(Http::new("https://h/x").mode(0o7644).owner(0, 5).accept("a/b"));
    assert_eq!((attrs_of["http.perm"].as_str(), attrs_of["http.gid"].as_str()), ("0644", "5"));
    assert!(!attrs_of.contains_key("http.uid"));
    assert_eq!(attrs_of["http.header.accept"], "a/b");
    assert!(caps(Http::new("https://h/x").user_agent("")).contains(&"source.http.header".to_owned()));
    assert_eq!(caps(Http::new("https://h/x").mode(0).owner(0, 0)), ["source.http"]);
    let unsigned = || Http::new("https://h/x").verify_pgp("", "");
    assert!(attrs(unsigned()).is_empty(), "what is empty is left out");
    assert_eq!(caps(unsigned()), ["source.http", "source.http.signatureverify"]);
}

#[test]
fn a_bundle_without_an_address_is_none() {
    let bundle = |url: &str| {
        Git::new("https://h/x.git", "").bundle(GitBundle {
            url: url.into(),
            store: "st".into(),
            ..GitBundle::default()
        })
    };
    let (none, some) = (attrs(bundle("")), attrs(bundle("oci-layout+blob://x")));
    assert!(!none.contains_key("git.bundle") && none["oci.store"] == "st");
    assert_eq!(some["git.bundle"], "oci-layout+blob://x");
    let cap = "source.git.bundle".to_owned();
    assert!(!caps(bundle("")).contains(&cap) && caps(bundle("x")).contains(&cap));
}

#[test]
fn local_directories_are_told_apart() {
    assert_eq!(attrs(local("x"))["local.unique"], "u");
    assert_eq!(attrs(Local::new("x").unique_id(""))["local.unique"], "u", "the empty id is none");
    assert!(!attrs(Local::new("x").session("s")).contains_key("local.unique"));
    assert_eq!(attrs(Source::new("local://x"))["local.unique"], "u");
    assert!(!attrs(Source::new("local://x").attr("local.session", "s")).contains_key("local.unique"));
    let without = local("x").marshal(Platform::LINUX_AMD64).unwrap();
    assert!(without.ops().next().unwrap().to_json().unwrap()["source"].get("attrs").is_none());
    // Lists replace one another, and an empty one is none.
    assert_eq!(attrs(Local::new("x").include(["a"]).include(["b"]))["local.includepattern"], "[\"b\"]");
    assert!(
        !attrs(Local::new("x").include(["a"]).include([] as [&str; 0])).contains_key("local.includepattern")
    );
}

#[test]
fn constraints_of_marshal_and_of_the_op_are_merged() {
    let all =
        Constraints::new().name("all").describe("k", "v").ignore_cache().export_cache(false).require("a==b");
    let own = Image::new("a").name("own").export_cache(true).require("c==d");
    let definition =
        State::from(own).marshal(MarshalOptions::new(Platform::LINUX_AMD64).constraints(all)).unwrap();
    let op = definition.ops().next().unwrap();
    let metadata = op.metadata();
    assert_eq!(metadata.description["llb.customname"], "own");
    assert_eq!(
        (metadata.description["k"].as_str(), metadata.ignore_cache, metadata.export_cache),
        ("v", true, Some(true))
    );
    assert_eq!(op.to_json().unwrap()["constraints"]["filter"], serde_json::json!(["a==b", "c==d"]));
}

#[test]
fn ops_with_equal_digests_share_their_metadata() {
    let named = |name: &str| Image::new("a").name(name).progress_group(name, name, false);
    let definition = marshal(diff(named("one"), State::from(named("two")).mkdir("/x", 0o755)));
    assert_eq!(definition.ops().len(), 4, "the image is listed once");
    let metadata = definition.ops().next().unwrap().metadata();
    assert_eq!(metadata.description["llb.customname"], "two", "the later one wins");
    assert_eq!(metadata.progress_group.as_ref().unwrap().id, "two");
}

#[test]
fn ops_with_equal_digests_come_from_all_of_their_places() {
    let map = SourceMap::new("f", "Text", "a\nb\n");
    let at = |line| Image::new("a").location(map.location([Range::lines(line, line)]));
    let definition = marshal(diff(at(1), State::from(at(2)).mkdir("/x", 0o755)));
    let image = definition.ops().next().unwrap();
    let lines: Vec<_> = image.locations().map(|(_, ranges)| ranges[0].start.line).collect();
    assert_eq!(lines, [1, 2]);
}

#[test]
fn constraints_stay_with_their_op() {
    let state = image("a").run(["x"]).name("n").root();
    assert!(metadata(state).description.is_empty());
}

#[test]
fn only_some_ops_say_their_platform() {
    let arm = || Constraints::new().platform(Platform::LINUX_ARM64);
    let has = |state: State| first(state).get("platform").is_some();
    assert!(has(Image::new("a").constraints(&arm()).into()));
    assert!(has(buildkit_llb::OciLayout::new("a@sha256:b").constraints(&arm()).into()));
    assert!(!has(Local::new("a").constraints(&arm()).into()));
    assert!(!has(buildkit_llb::FileSteps::new(scratch(), buildkit_llb::mkdir("/a", 0))
        .constraints(&arm())
        .into()));
    // But what came from a source knows it, as does what a process with one of its own left.
    assert_eq!(
        State::from(Local::new("a").constraints(&arm())).context().platform(),
        Some(&Platform::LINUX_ARM64)
    );
    let exec = image("a").run(["x"]).platform(Platform::LINUX_ARM64).mount("/m", scratch());
    let exec = exec.mount("/t", Mount::tmpfs()).exec();
    assert_eq!(exec.root().context().platform(), Some(&Platform::LINUX_ARM64));
    assert_eq!(exec.output_of("/m").unwrap().context().platform(), Some(&Platform::LINUX_ARM64));
    assert_eq!(exec.output_of("/t").unwrap().context().platform(), None);
    assert_eq!(merge([image("a"), exec.root()]).context().platform(), None);
}

#[test]
fn a_readonly_mount_leaves_what_it_was() {
    let source = image("b").dir("/s");
    let exec =
        image("a").run(["x"]).mount("/m", Mount::bind(&source).readonly()).mount("/n", source.clone()).exec();
    assert_eq!(marshal(exec.output_of("/m").unwrap()), marshal(&source));
    assert_eq!(exec.output_of("/m").unwrap().context().dir(), "/s");
    // Of several mounts at one place the last one is meant.
    let exec = image("a").run(["x"]).mount("/m", image("b")).mount("/m", Mount::scratch()).exec();
    let taken = marshal(exec.output_of("/m").unwrap());
    assert_eq!(taken.head().unwrap().unwrap().1, 2);
    assert_eq!(taken, marshal(exec.mount_output(1).unwrap()));
    assert!(exec.mount_output(2).is_none());
}

#[test]
fn sockets_are_numbered_with_those_that_have_a_place() {
    let run = image("a").run(["x"]).ssh(Ssh::new().dest("/s")).ssh(Ssh::new()).ssh(Ssh::new().id("k"));
    let definition = marshal(run.root());
    let exec = definition.ops().nth(1).unwrap().to_json().unwrap()["exec"].clone();
    let dests: Vec<&str> =
        exec["mounts"].as_array().unwrap().iter().map(|mount| mount["dest"].as_str().unwrap()).collect();
    assert_eq!(dests, ["/", "/s", "/run/buildkit/ssh_agent.1", "/run/buildkit/ssh_agent.2"]);
    assert_eq!(exec["meta"]["env"], serde_json::json!(["SSH_AUTH_SOCK=/s"]));
}

#[test]
fn a_build_op_without_a_name_builds_the_default_file() {
    let named = |name: &str| marshal(BuildOp::new(image("a")).filename(name));
    let build = marshal(BuildOp::new(image("a")));
    assert_eq!(build, named(""));
    assert_ne!(build, named("x"));
    assert_eq!(error(BuildOp::new(scratch())).kind(), &ErrorKind::BuildWithoutInput);
}

/// Every mistake comes out at `marshal`, however far down it is, with the line that made it.
#[test]
fn mistakes_are_told_with_op_and_line() {
    let tmpfs = CustomKind::Tmpfs { size: 0 };
    let tmpfs = CustomMount { source: Some(image("b")), kind: tmpfs, ..CustomMount::default() };
    #[rustfmt::skip]
    let kinds: Vec<(u32, Error, &str)> = vec![
        (line!(), error(image("a b").run(["x"]).root()), "source \"docker-image://a b\""),
        (line!(), error(Source::new("").attr("k", "v")), "source \"\""),
        (line!(), error(scratch().file(buildkit_llb::FileAction::new())), "file"),
        (line!(), error(image("a").run(["x"]).mount("/c", tmpfs).root()), "run [\"x\"]"),
        (line!(), error(scratch().requires("p", [scratch()]).mkdir("/a", 0)), "passthrough \"p\""),
        (line!(), error(scratch().requires("p", [image("a")])), "passthrough \"p\""),
        (line!(), error(image("a").requires("", [image("b")])), "passthrough \"\""),
        (line!(), error(Passthrough::new("p").dependency(image("a")).outputs().remove(0)), "passthrough \"p\""),
        (line!(), error(image("a").image_config("{").mkdir("/a", 0)), "image config"),
        (line!(), error(image("a").run(["x"]).exec().root().run([] as [&str; 0]).root()), "run []"),
    ];
    for (line, error, op) in kinds {
        assert_eq!((error.location().unwrap().line(), error.op()), (line, op), "{error}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("{op}: ")) && text.contains("options.rs"), "{text}");
        assert!(std::error::Error::source(&error).is_none());
    }
}

#[test]
fn a_mount_of_a_mistake_is_a_mistake() {
    let bad = image("BAD");
    let mount = CustomMount { source: Some(bad.clone()), ..CustomMount::default() };
    for state in [
        merge([image("a"), bad.clone()]),
        diff(image("a"), &bad),
        scratch().copy(&bad, "/", "/"),
        image("a").run(["x"]).mount("/m", mount).root(),
        bad.requires("p", [image("a")]),
    ] {
        assert!(matches!(error(state).kind(), ErrorKind::Reference(_)));
    }
}

#[test]
fn equal_source_maps_are_one() {
    let map = || SourceMap::new("f", "Text", "a\nb\n");
    let at = |map: &SourceMap, line| map.location([Range::lines(line, line)]);
    let one = map().read_from(local("src"));
    let state = State::from(Image::new("a").location(at(&map(), 1)));
    let state = state.run(["x"]).location(at(&map(), 2)).location(at(&one, 2)).root();
    let definition = marshal(state.run(["y"]).location(at(&SourceMap::new("g", "Text", "a\nb\n"), 1)).root());
    assert_eq!(
        definition.source_maps().len(),
        3,
        "the same file, the same file from a directory, another file"
    );
    let places: Vec<usize> = definition.ops().map(|op| op.locations().count()).collect();
    assert_eq!(places, [1, 2, 1, 0]);
    let [text, other] = ["Text", "Other"].map(|language| at(&SourceMap::new("f", language, "a"), 1));
    assert_eq!(marshal(Image::new("a").location(text).location(other)).source_maps().len(), 2);
    let source = definition.to_pb().source.unwrap();
    let origin = Definition::from_pb(source.infos[1].definition.clone().unwrap()).unwrap();
    assert_eq!(origin, marshal(local("src")), "marshalled with the same options");
    let read = Definition::from_bytes(definition.to_bytes()).unwrap();
    assert_eq!(read.to_state().unwrap().marshal(Platform::LINUX_AMD64).unwrap(), definition);
    let mut broken = definition.to_pb();
    broken.source.as_mut().unwrap().infos.truncate(1);
    assert_eq!(Definition::from_pb(broken).unwrap_err().kind(), &ErrorKind::MissingSourceMap(1));
}

/// Where the daemon does not know it by itself; Windows always does.
#[test]
fn processes_are_told_where_commands_are_by_the_platform_of_the_build() {
    let env = |build: Platform, own: Platform, server: ServerCaps| {
        let state = scratch().run(["x"]).platform(own).root();
        let definition = state.marshal(MarshalOptions::new(build).caps(server)).unwrap();
        definition.ops().next().unwrap().to_json().unwrap()["exec"]["meta"]["env"].clone()
    };
    let path = serde_json::json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
    let (linux, windows) = (Platform::LINUX_AMD64, Platform::WINDOWS_AMD64);
    for (build, own, want) in [
        (&linux, &linux, &path),
        (&linux, &windows, &path),
        (&windows, &linux, &serde_json::Value::Null),
        (&windows, &windows, &serde_json::Value::Null),
    ] {
        assert_eq!(&env(build.clone(), own.clone(), ServerCaps::frozen()), want, "{build} {own}");
    }
    assert!(env(linux.clone(), linux, ServerCaps::all()).is_null());
}

#[test]
fn a_cache_without_an_id_is_an_ordinary_mount() {
    let cache = |id: &str| {
        let run = scratch().run(["x"]).mount("/c", Mount::cache(id).locked().from(image("alpine"))).exec();
        (marshal(run.root()), run.output_of("/c").unwrap())
    };
    let (definition, output) = cache("");
    let plain = scratch().run(["x"]).mount("/c", image("alpine")).root();
    assert_eq!(definition, marshal(plain));
    marshal(output);
    assert_eq!(error(cache("c").1).kind(), &ErrorKind::NoOutput { dest: "/c".into(), mount: "cache" });
}

#[test]
fn times_far_away_wrap_around() {
    let time = |secs: i64| {
        let file = MkFile::new("/f", 0o644, "").created(Timestamp::from_secs(secs));
        first(scratch().file(file))["file"]["actions"][0]["mkfile"]["timestamp"].clone()
    };
    assert_eq!((time(-5), time(1 << 40)), ("-5000000000".into(), "-7293016646573096960".into()));
    assert!(time(1 << 62).is_null());
}
