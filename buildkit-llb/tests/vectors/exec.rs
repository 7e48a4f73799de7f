//! Processes and their mounts.

use buildkit_llb::caps::ServerCaps;
use buildkit_llb::{
    ContentCache, CustomKind, CustomMount, Device, ErrorKind, Exec, LinuxResources, Mount, Network, Platform,
    ProxyEnv, Secret, Security, Sharing, ShlexError, Ssh, State, scratch, shlex,
};

use super::{alpine, busybox, check, check_error, check_with, options};

fn hello() -> State {
    alpine().run(shlex("echo \"hello world\"")).root()
}

fn without_default_path() -> ServerCaps {
    let mut caps = ServerCaps::all();
    caps.remove("exec.meta.setsdefaultpath");
    caps
}

#[test]
fn e06_a_command_line() {
    check("E06", &hello());
}

#[test]
fn e07_environment_directory_user() {
    let state = alpine().env("A", "1").env("B", "2").env("A", "3").dir("/x").dir("y");
    check("E07", &state.user("1000:1000").hostname("h1").run(["id"]).root());
}

#[test]
fn e08_a_daemon_that_knows_where_commands_are() {
    let definition = hello().marshal(options().caps(ServerCaps::all())).unwrap();
    let plain = hello().marshal(options()).unwrap();
    assert!(definition.ops().map(|op| op.digest()).eq(plain.ops().map(|op| op.digest())));
    let process = definition.ops().nth(1).unwrap();
    assert!(process.metadata().caps.contains("exec.meta.setsdefaultpath"));
    super::compare_recorded("E08", &definition);
}

#[test]
fn e09_a_daemon_that_must_be_told_where_commands_are() {
    check_with("E09", &hello(), &options().caps(without_default_path()));
}

fn every_mount() -> Exec {
    let run = alpine()
        .run(["make"])
        .mount("/src", Mount::bind(busybox()).readonly().selector("/etc"))
        .mount("/same", Mount::bind(busybox()).readonly())
        .mount("/cache", Mount::cache("c1").locked())
        .mount("/tmp2", Mount::tmpfs().size(1 << 20))
        .mount("/out", scratch())
        .mount("/run/secrets/tok", Mount::secret("tok").optional())
        .secret_env("TOKENV", "TOKENV")
        .secret_env("S3", "s3")
        .ssh(Ssh::new().id("default"))
        .mount("/agent.sock", Mount::ssh().id("k2").owner(10, 11).mode(0o644).optional());
    run.exec()
}

#[test]
fn e10_every_kind_of_mount() {
    check("E10", &every_mount().root());
}

#[test]
fn e11_the_output_of_a_mount() {
    check("E11", &every_mount().output_of("/out").unwrap());
    assert!(every_mount().output_of("/nowhere").is_none());
    let root = every_mount().output_of("/").unwrap().marshal(options()).unwrap();
    assert_eq!(root, every_mount().root().marshal(options()).unwrap());
}

#[test]
fn e12_everything_but_mounts() {
    let state = alpine()
        .network(Network::Host)
        .security(Security::Insecure)
        .add_host("db", [10, 0, 0, 1])
        .ulimit("nofile", 1024, 2048)
        .cgroup_parent("cg");
    let [http, https, ftp, no, all] = ["http://p", "http://ps", "f", "n", "a"].map(str::to_owned);
    let resources = LinuxResources { memory: 1 << 20, cpu_quota: 5, ..LinuxResources::default() };
    let run = state
        .run(["true"])
        .add_host("v6", [0, 0, 0, 0, 0, 0, 0, 1])
        .ulimit("core", 0, 0)
        .valid_exit_codes([0, 3])
        .proxy(ProxyEnv { http, https, ftp, no, all })
        .device(Device::new("vendor.com/gpu=all").optional())
        .linux_resources(resources);
    let definition = check("E12", &run.root());
    let process = definition.ops().nth(1).unwrap();
    assert_eq!(process.metadata().linux_resources.as_ref().unwrap().memory, 1 << 20);
}

#[test]
fn e13_a_root_that_cannot_be_written() {
    let run = alpine()
        .run(["a"])
        .readonly_root()
        .network(Network::None)
        .mount("/no", Mount::scratch().no_output())
        .mount("/b", Mount::bind(busybox()).content_cache(ContentCache::Off))
        .mount("/a", Mount::scratch());
    let exec = run.exec();
    check("E13", &exec.output_of("/b").unwrap());
    // The root stays what it was: without its output the process is not part of the graph.
    check("E02", &exec.root());
    let error = exec.output_of("/no").unwrap().marshal(options()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NoOutput { dest: "/no".into(), mount: "no-output" });
}

#[test]
fn e43_a_process_runs_on_the_platform_of_its_image() {
    let image = buildkit_llb::Image::new("alpine").platform(Platform::LINUX_ARM_V7);
    check("E43", &State::from(image).run(["x"]).root());
}

#[test]
fn e44_the_default_path_is_that_of_the_marshal_platform() {
    let mut platform = Platform::WINDOWS_AMD64;
    platform.os_version = "10.0.1".into();
    platform.os_features = vec!["win32k".into()];
    let image = buildkit_llb::Image::new("mcr/x").platform(platform);
    let state = State::from(image).run(["cmd"]).root();
    check_with("E44", &state, &options().caps(without_default_path()));
}

#[test]
fn e45_a_process_needs_a_command() {
    let line = line!() + 1;
    let error = check_error("E45", &alpine().run(Vec::<String>::new()).root());
    assert_eq!((error.kind(), error.op()), (&ErrorKind::NoArguments, "run []"));
    assert_eq!(error.location().unwrap().line(), line);
}

#[test]
fn e46_a_process_on_nothing() {
    check("E46", &scratch().run(["/x"]).root());
}

#[test]
fn e47_a_tmpfs_leaves_nothing() {
    let exec = alpine().run(["x"]).mount("/m", Mount::tmpfs()).exec();
    let error = check_error("E47", &exec.output_of("/m").unwrap());
    assert_eq!(error.kind(), &ErrorKind::NoOutput { dest: "/m".into(), mount: "tmpfs" });
}

#[test]
fn e49_mounts_are_sorted_and_equal_ones_keep_their_order() {
    let run = alpine().run(["x"]).mount("/b", scratch()).mount("/a", scratch()).mount("/b", busybox());
    check("E49", &run.root());
}

#[test]
fn e55_a_mount_taken_by_name_alone_starts_afresh() {
    let exec = alpine().dir("/q").env("A", "1").run(["x"]).mount("/m", scratch()).exec();
    check("E55", &exec.output_of("/m").unwrap().fresh().run(["/y"]).root());
}

#[test]
fn e56_a_mount_keeps_how_its_source_runs_processes() {
    let source = busybox().dir("/mm").env("B", "2");
    let output = alpine().dir("/q").env("A", "1").run(["x"]).output("/m", source);
    check("E56", &output.run(["/y"]).root());
}

#[test]
fn e57_options_of_a_process_are_its_own() {
    let run = alpine().run(["x"]).dir("sub").env("A", "b").user("u").with(|state| state.env("C", "d"));
    check("E57", &run.root().run(["y"]).root());
}

#[test]
fn e58_a_command_is_not_inherited() {
    let state = alpine().run(["x"]).root().run(Vec::<String>::new()).root();
    assert_eq!(check_error("E58", &state).kind(), &ErrorKind::NoArguments);
}

#[test]
fn e59_quotes_and_comments_of_a_command_line() {
    let word = "hi";
    check("E59", &alpine().run(shlex(format!("sh -c 'echo \"{word}\"' # c"))).root());
}

#[test]
fn e60_an_open_quote_is_an_error_unlike_in_the_reference() {
    // The reference runs the words before the quote.
    check("E60", &alpine().run(["echo"]).root());
    let error = alpine().run(shlex("echo \"unterminated")).root().marshal(options()).unwrap_err();
    let open = ShlexError::UnbalancedQuote { quote: '"', at: 5 };
    assert_eq!(error.kind(), &ErrorKind::CommandLine(open));
    assert!(error.location().unwrap().file().ends_with("exec.rs"));
}

#[test]
fn e61_a_secret_as_file_and_variable() {
    check("E61", &alpine().run(["x"]).secret(Secret::new("/t").dest("/t").env("T")).root());
}

#[test]
fn e62_a_cache_with_everything() {
    let mount = CustomMount {
        source: Some(busybox()),
        selector: "/s".into(),
        readonly: true,
        kind: CustomKind::Cache { id: "id".into(), sharing: Sharing::Private },
        ..CustomMount::default()
    };
    check("E62", &alpine().run(["x"]).mount("/c", mount).root());
}

#[test]
fn e63_a_tmpfs_begins_empty() {
    let kind = CustomKind::Tmpfs { size: 0 };
    let mount = CustomMount { source: Some(busybox()), kind, ..CustomMount::default() };
    let error = check_error("E63", &alpine().run(["x"]).mount("/c", mount).root());
    assert_eq!(error.kind(), &ErrorKind::TmpfsWithSource { dest: "/c".into() });
}

#[test]
fn e64_an_agent_does_not_replace_a_variable() {
    check("E64", &alpine().env("SSH_AUTH_SOCK", "/z").run(["x"]).ssh(Ssh::new()).root());
}

#[test]
fn e74_a_process_with_a_platform_of_its_own() {
    check("E74", &alpine().run(["x"]).platform(Platform::LINUX_ARM64).root());
}
