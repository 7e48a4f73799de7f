//! Sources: images, blobs, directories, git, HTTP.

use buildkit_llb::reference::{Error as ReferenceError, Reference};
use buildkit_llb::{
    Constraints, Differ, Digest, ErrorKind, Git, GitBundle, Http, Image, ImageBlob, Local, Mtime, OciLayout,
    OciLayoutBlob, Platform, RecordType, ResolveMode, Source, State, git, http, image, local, scratch,
};

use super::{SHA, alpine, check, check_error, check_with, options};

#[test]
fn e01_scratch_is_the_empty_definition() {
    let definition = scratch().marshal(options()).unwrap();
    assert!(definition.is_empty());
    assert_eq!((definition.ops().len(), definition.head().unwrap()), (0, None));
    let message = definition.to_pb();
    assert!(message.def.is_empty() && message.metadata.is_empty() && message.source.is_none());
    assert!(definition.to_state().unwrap().is_scratch());
}

#[test]
fn e02_an_image_by_its_short_name() {
    let definition = check("E02", &alpine());
    let head = Digest::of(definition.ops().next().unwrap().bytes());
    assert_eq!(definition.head().unwrap(), Some((head, 0)));
}

#[test]
fn e03_an_image_with_every_option() {
    let image = Image::new("alpine:3.19").always_pull().record_type(RecordType::Internal);
    check("E03", &image.layer_limit(2).checksum(SHA).into());
}

#[test]
fn e04_an_images_platform_is_kept_as_given() {
    let platform = Platform::new("linux", "aarch64").with_variant("v8");
    let image = Image::new(format!("quay.io/foo/bar@{SHA}")).resolve_mode(ResolveMode::Local);
    check("E04", &image.platform(platform).into());
}

#[test]
fn e05_constraints_of_marshal_hold_for_every_op() {
    let state = State::from(Image::new("alpine").require("x==y"));
    let all = Constraints::new().platform(Platform::LINUX_ARM64).require("a==b");
    check_with("E05", &state, &options().constraints(all));
}

#[test]
fn e14_a_local_directory() {
    check("E14", &local("ctx"));
}

#[test]
fn e15_a_local_directory_with_every_option() {
    let local = Local::new("ctx").session("s1").include(["a", "b/*"]).exclude(["*.o"]).follow(["x"]);
    check("E15", &local.shared_key_hint("h").differ(Differ::None, true).metadata_only(["e"]).into());
}

#[test]
fn e16_git_with_ref_and_directory() {
    check("E16", &git("github.com/foo/bar.git", "v1:sub"));
}

#[test]
fn e17_git_with_every_option_of_https() {
    let git = Git::new("https://u:p@example.com:8443/r.git", "")
        .reference("main")
        .subdir("d/e")
        .keep_git_dir()
        .auth_token_secret("T")
        .auth_header_secret("H")
        .checksum("cafe")
        .skip_submodules()
        .mtime(Mtime::Commit)
        .fetch_by_commit();
    check("E17", &git.into());
}

#[test]
fn e18_git_over_ssh() {
    let git = Git::new("git@github.com:foo/bar.git", "");
    let git = git.known_hosts("github.com ssh-ed25519 AAAA").known_hosts("h2 k2\n").ssh_sock("id1");
    check("E18", &git.into());
}

#[test]
fn e19_git_from_a_bundle() {
    let url = format!("oci-layout+blob://n/r@{SHA}");
    let bundle = GitBundle { url, session: "sess1".into(), store: "store1".into() };
    let git = Git::new("github.com/foo/bar.git", "").checksum("1".repeat(40)).bundle(bundle);
    check("E19", &git.checkout_bundle().into());
}

#[test]
fn e20_http_with_every_option() {
    let http = Http::new("https://example.com/f.tgz")
        .checksum(SHA)
        .filename("f")
        .mode(0o755)
        .owner(1, 2)
        .auth_header_secret("S")
        .accept("a/b")
        .user_agent("ua")
        .verify_pgp("PK", "SG");
    check("E20", &http.into());
}

#[test]
fn e21_an_oci_layout() {
    let layout = OciLayout::new(format!("example.com/n@{SHA}")).store("sess", "store").layer_limit(3);
    check("E21", &layout.into());
}

#[test]
fn e22_a_blob_of_a_registry() {
    let blob = ImageBlob::new(format!("foo/bar@{SHA}")).filename("blob").mode(0o600);
    check("E22", &blob.into());
}

#[test]
fn e23_a_blob_of_an_oci_layout() {
    check("E23", &OciLayoutBlob::new(format!("foo/bar@{SHA}"), "sess", "store").into());
}

#[test]
fn e23b_a_blob_has_no_tag() {
    let error = check_error("E23b", &ImageBlob::new("foo/bar:tag").into());
    assert_eq!(error.kind(), &ErrorKind::BlobTagged);
    let without = State::from(ImageBlob::new("foo/bar")).marshal(options()).unwrap_err();
    assert_eq!(without.kind(), &ErrorKind::BlobWithoutDigest);
}

const CONFIG: &str = r#"{
    "architecture": "amd64", "os": "linux",
    "config": {
        "Env": ["PATH=/bin", "FOO=bar=baz", "EMPTY", "=skipme"],
        "WorkingDir": "/work", "User": "nobody", "Cmd": ["sh"], "Labels": {"a": "b"}
    }
}"#;

#[test]
fn e36_an_images_config_says_how_processes_run() {
    check("E36", &alpine().image_config(CONFIG).run(["id"]).root());
}

#[test]
fn e37_a_resolved_image_is_pinned() {
    let reference = Reference::parse_normalized("alpine").unwrap().with_default_tag();
    let pinned = reference.with_digest(&Digest::of(b"cfg").to_string()).unwrap();
    check("E37", &image(pinned.to_string()).image_config(CONFIG).run(["id"]).root());
}

#[test]
fn e48_a_repository_name_is_lower_case() {
    let error = check_error("E48", &image("Case"));
    assert_eq!(error.kind(), &ErrorKind::Reference(ReferenceError::Uppercase("Case".into())));
    assert_eq!(error.op(), "source \"docker-image://Case\"");
    let line = line!() + 1;
    let error = image("Case").run(["x"]).root().mkdir("/a", 0o755).marshal(options()).unwrap_err();
    assert_eq!(error.location().unwrap().line(), line);
}

#[test]
fn e51_an_empty_attribute_is_written() {
    check("E51", &Source::new("docker-image://x/y:z").attr("k", "").attr("a", "b").into());
}

#[test]
fn e66_what_is_no_git_url_names_the_source_whole() {
    check("E66", &git("httpx://foo/bar", "r"));
}

#[test]
fn e67_a_fragment_inside_the_remote_is_dropped() {
    check("E67", &Git::new("git@github.com:foo/bar.git#frag:sub", "").known_hosts("x").into());
}

#[test]
fn e68_a_query_is_dropped_and_the_directory_stays_inside() {
    check("E68", &git("https://github.com/foo/bar.git?x=1", "r:../../s"));
}

#[test]
fn e69_git_without_secrets() {
    let git = Git::new("https://github.com/foo/bar.git", "").auth_token_secret("").auth_header_secret("");
    check("E69", &git.into());
}

#[test]
fn e70_http() {
    check("E70", &http("https://example.com/x"));
}

#[test]
fn e72_tag_and_digest_both_stay() {
    check("E72", &image(format!("alpine:3@sha256:{:064}", 1)));
}

#[test]
fn e73_a_local_directory_with_an_id_of_its_own() {
    check("E73", &Local::new("x").unique_id("mine").into());
}
