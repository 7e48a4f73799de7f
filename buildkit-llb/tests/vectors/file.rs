//! File ops.

use buildkit_llb::{
    Copy, CopyOptions, Definition, ErrorKind, FileAction, Image, MkDir, MkFile, Platform, Rm, State, Symlink,
    Timestamp, copy, mkdir, mkfile, scratch,
};

use super::{alpine, busybox, check, options};

#[test]
fn e24_a_directory_and_a_file_in_it() {
    check("E24", &scratch().file(mkdir("/a", 0o755).mkfile("/a/f", 0o644, "hi")));
}

#[test]
fn e25_paths_modes_owners_times() {
    let created = Timestamp::from_secs(1);
    let action = FileAction::from(MkDir::new("x/y/", 0o7777).parents().owner((0, 7)).created(created))
        .then(MkFile::new("../f", 0o600, "").owner("app:root"))
        .then(Symlink::new("old", "new").owner("5"))
        .then(Rm::new("z*").allow_not_found().wildcard());
    check("E25", &scratch().dir("/w").file(action));
}

#[test]
fn e26_a_copy_with_every_option() {
    let texts = |text: &str| vec![text.to_owned()];
    let options = CopyOptions {
        follow_symlinks: true,
        contents_only: true,
        unpack: true,
        create_dest: true,
        wildcard: true,
        allow_empty_wildcard: true,
        include: texts("i"),
        exclude: texts("e"),
        required_paths: texts("r"),
        always_replace: true,
        ..CopyOptions::default()
    };
    let from = busybox().dir("/sd");
    let with_struct = Copy::new(&from, "a/./b", "d/").options(options).mode(0o700).owner("app");
    check("E26", &alpine().file(with_struct));
    let with_setters = Copy::new(&from, "a/./b", "d/")
        .follow_symlinks()
        .contents_only()
        .unpack()
        .create_dest()
        .wildcard()
        .allow_empty_wildcard()
        .include(["i"])
        .exclude(["e"])
        .required_paths(["r"])
        .always_replace()
        .mode(0o700)
        .owner("app");
    check("E26", &alpine().file(with_setters));
}

#[test]
fn e27_a_symbolic_mode() {
    check("E27", &alpine().file(Copy::new(alpine(), "/etc/.", "/x/.").mode("u+x")));
}

#[test]
fn e28_copying_from_actions_on_another_state() {
    let made = mkdir("./foo", 0o700).with_state(busybox().dir("/ced"));
    check("E28", &alpine().dir("/abc").file(mkdir("./bar", 0o701).copy(made, "./foo", "./baz")));
}

#[test]
fn e40_ops_are_listed_from_the_last_action_back() {
    let generated = alpine().run(["gen"]).root();
    let (left, right) = (generated.run(["l"]).root(), generated.run(["r"]).root());
    check("E40", &scratch().file(copy(left, "/l", "/").copy(right, "/r", "/")));
}

#[test]
fn e52_a_path_is_utf8() {
    // A `String` cannot hold anything else; see `tests/refused.md`. What is left is a
    // definition made elsewhere.
    let made = scratch().mkdir("/?", 0o755).marshal(options()).unwrap();
    let mut message = made.to_pb();
    let mut bytes = message.def[0].to_vec();
    let at = bytes.iter().position(|byte| *byte == b'?').unwrap();
    bytes[at] = 0xff;
    message.def[0] = bytes.into();
    let read = Definition::from_pb(message).unwrap();
    assert!(matches!(read.ops().next().unwrap().message().unwrap_err().kind(), ErrorKind::Decode(_)));
    assert!(read.validate().is_err());
    assert!(read.to_state().is_err());
}

#[test]
fn e65_the_tail_of_a_destination_stays() {
    let from = alpine().dir("/s");
    let action = copy(&from, ".", "./").copy(&from, "/a//b/../c/", "x/.").copy(alpine(), "*", "/").copy(
        scratch(),
        "/z",
        "/q",
    );
    check("E65", &scratch().dir("/w").file(action));
}

#[test]
fn e71_two_file_ops() {
    check("E71", &scratch().file(mkdir("/a", 0o755)).file(mkfile("/a/b", 0o644, "x")));
    check("E71", &scratch().mkdir("/a", 0o755).mkfile("/a/b", 0o644, "x"));
}

#[test]
fn e75_a_platform_passes_through_a_file_op() {
    let image = State::from(Image::new("alpine").platform(Platform::LINUX_ARM64));
    check("E75", &image.file(mkdir("/z", 0o755)).run(["x"]).root());
}
