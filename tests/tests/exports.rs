//! What each exporter writes, opened and checked.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildkit_client::content::{BlobInfo, ContentStore, Digest, NewBlob, OciStore};
use buildkit_client::dockerfile::{Context, Dockerfile};
use buildkit_client::error::{BoxError, Error, report};
use buildkit_client::export::{
    AnnotationOn, Compression, Export, Output, ResultInfo, SessionExporter, TreeSink,
};
use buildkit_client::{Client, Provenance, Solve, Solved};
use buildkit_fsutil::destination::DiskDestination;
use buildkit_fsutil::disk_writer::WriteOptions;
use buildkit_fsutil::source::SourceFs;
use buildkit_llb::{self as llb, Platform, State, sh};
use buildkit_proto::fsutil::Stat;
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::oci::{Layout, TarEntry, entries};
use serde_json::Value;

const ODD: &str = "odd 'name'\n\u{fc}\u{2603}";

async fn client(daemon: &Daemon) -> Client {
    Client::connect(daemon.endpoint.as_str()).await.unwrap()
}

async fn done(solve: Solve) -> Solved {
    solve.await.unwrap_or_else(|error| panic!("{}", report(&error)))
}

/// Files of every kind, with modes and times of their own.
fn tree() -> State {
    let script = format!(
        "cd /out && mkdir -p dir/sub && echo hello > dir/file && chmod 640 dir/file \
         && echo run > exe && chmod 755 exe && ln -s dir/file link && ln exe hard && : > empty \
         && echo odd > '{}' && mkdir sticky && chmod 1777 sticky \
         && touch -h -d @1500000000 link && touch -d @1600000000 exe dir/file empty \
         && touch -d @1400000000 dir",
        ODD.replace('\'', "'\\''")
    );
    llb::image("docker.io/library/alpine:latest").run(sh(script)).output("/out", llb::scratch())
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

fn mtime(path: &Path) -> i64 {
    path.symlink_metadata().unwrap().mtime()
}

#[tokio::test]
async fn a_local_directory_has_links_modes_times_and_odd_names() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("made/for/it");
    // As it was sent, whatever the umask of this process takes away.
    let exact = WriteOptions { ignore_umask: true, ..WriteOptions::default() };
    done(client(&daemon).await.solve(tree()).export(Export::local(&out).write_options(exact))).await;
    let at = |path: &str| out.join(path);
    assert_eq!(std::fs::read(at("dir/file")).unwrap(), b"hello\n");
    assert_eq!(mode(&at("dir/file")), 0o640);
    assert_eq!(mode(&at("exe")), 0o755);
    assert_eq!(mode(&at("sticky")), 0o1777);
    assert_eq!(std::fs::read_link(at("link")).unwrap(), Path::new("dir/file"));
    assert_eq!(mtime(&at("link")), 1_500_000_000);
    assert_eq!(mtime(&at("exe")), 1_600_000_000);
    assert_eq!(mtime(&at("dir")), 1_400_000_000);
    assert_eq!(at("exe").metadata().unwrap().ino(), at("hard").metadata().unwrap().ino());
    assert_eq!(std::fs::read(at(ODD)).unwrap(), b"odd\n");
    assert_eq!(at("empty").metadata().unwrap().len(), 0);
    assert!(at("dir/sub").is_dir());

    // Unless asked, the umask holds here as for any new file.
    let usual = dir.path().join("usual");
    done(client(&daemon).await.solve(tree()).export(Export::local(&usual))).await;
    let umask = DiskDestination::open(&usual).unwrap().umask();
    for (path, sent) in [("dir/file", 0o640), ("exe", 0o755), ("sticky", 0o1777)] {
        assert_eq!(mode(&usual.join(path)), sent & !umask, "{path} with a umask of {umask:o}");
    }
}

#[tokio::test]
async fn a_tar_lists_the_same_files() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.tar");
    done(client(&daemon).await.solve(tree()).export(Export::tar(&path))).await;
    let found: BTreeMap<String, TarEntry> = entries(&std::fs::read(&path).unwrap())
        .into_iter()
        .map(|entry| (entry.path.clone(), entry))
        .collect();
    // The reader used here ends names at a line feed; ours does not.
    let names: Vec<&str> =
        found.keys().map(|name| if name.starts_with("odd") { "odd" } else { name }).collect();
    assert_eq!(names, ["dir", "dir/file", "dir/sub", "empty", "exe", "hard", "link", "odd", "sticky"]);
    let ours = buildkit_fsutil::tar::Tar::from_file(std::fs::File::open(&path).unwrap()).unwrap();
    let mut odd = vec![0; 8];
    assert_eq!(SourceFs::open(&ours, ODD.as_bytes()).unwrap().read(&mut odd).unwrap(), 4);
    assert_eq!((found["dir/file"].mode, found["dir/file"].data.as_slice()), (0o640, &b"hello\n"[..]));
    assert_eq!(found["exe"].mtime, 1_600_000_000);
    assert_eq!(found["link"].link.as_deref(), Some("dir/file"));
    assert_eq!(found["hard"].kind, tar::EntryType::Link);
    assert_eq!(found["hard"].link.as_deref(), Some("exe"));
    assert_eq!(found["sticky"].mode, 0o1777);
}

/// Takes a tree and keeps what it was given.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<File>>>);

/// Path and content.
type File = (String, Vec<u8>);

impl TreeSink for Kept {
    fn entry(&self, stat: &Stat) -> Result<(), BoxError> {
        let path = String::from_utf8_lossy(&stat.path).into_owned();
        self.0.lock().unwrap().push((path, Vec::new()));
        Ok(())
    }

    fn data(&self, path: &[u8], data: &[u8]) -> Result<(), BoxError> {
        let path = String::from_utf8_lossy(path).into_owned();
        let mut kept = self.0.lock().unwrap();
        let (_, content) =
            kept.iter_mut().find(|(known, _)| *known == path).ok_or("no entry before its data")?;
        content.extend_from_slice(data);
        Ok(())
    }
}

#[tokio::test]
async fn a_callback_gets_the_tree_and_one_gets_the_stream() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let kept = Kept::default();
    let told = Arc::new(Mutex::new(BTreeMap::new()));
    let (stream, mut bytes) = tokio::io::duplex(1 << 20);
    let stream = Mutex::new(Some(stream));
    let noted = Arc::clone(&told);
    let output = Output::open(move |metadata| {
        noted.lock().unwrap().clone_from(metadata);
        stream.lock().unwrap().take().ok_or(std::io::ErrorKind::AlreadyExists.into())
    });
    let reading = tokio::spawn(async move {
        let mut archive = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut bytes, &mut archive).await.unwrap();
        archive
    });
    let client = client(&daemon).await;
    let solved =
        done(client.solve(tree()).export(Export::tree(kept.clone())).export(Export::oci(output))).await;
    let kept = kept.0.lock().unwrap().clone();
    let file = kept.iter().find(|(path, _)| path == "dir/file").unwrap();
    assert_eq!(file.1, b"hello\n");
    let image = Layout::from_tar(&reading.await.unwrap());
    assert_eq!(image.only()["digest"], solved.digest());
    assert_eq!(told.lock().unwrap()["containerimage.digest"], solved.digest());
    assert_eq!(solved.export_response(1).unwrap()["containerimage.digest"], solved.digest());
}

/// A small image of its own.
fn image(name: &str) -> Dockerfile {
    let text = format!("FROM scratch\nCOPY f /f\nENV NAME={name}\nCMD [\"/f\"]\n");
    let files = buildkit_fsutil::memory::MemoryTree::new().file("f", name).file("Dockerfile", text);
    Dockerfile::new(Context::memory(files))
}

#[tokio::test]
async fn an_oci_archive_holds_what_its_digests_say() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oci.tar");
    let export = Export::oci(&path)
        .name("example.org/app:v1")
        .annotation("org.opencontainers.image.title", "app")
        .annotation_on(AnnotationOn::ManifestDescriptor, None, "about", "it");
    let solved = done(client(&daemon).await.solve(image("oci-archive")).export(export)).await;
    let layout = Layout::from_tar(&std::fs::read(&path).unwrap());
    let entry = layout.only();
    assert_eq!(entry["digest"], solved.digest());
    assert_eq!(entry["annotations"]["io.containerd.image.name"], "example.org/app:v1");
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "v1");
    assert_eq!(entry["annotations"]["about"], "it");
    let manifest = layout.blob_json(&entry);
    assert_eq!(manifest["annotations"]["org.opencontainers.image.title"], "app");
    let config = layout.blob_json(&manifest["config"]);
    assert_eq!(config["config"]["Cmd"][0], "/f");
    let layers = layout.layers(&manifest);
    assert_eq!(layers.len(), 1);
    assert!(layers[0].iter().any(|file| file.path == "f" && file.data == b"oci-archive"), "{layers:?}");
    let descriptor = solved.descriptor().unwrap();
    assert_eq!(
        (descriptor.digest.as_str(), descriptor.size),
        (solved.digest(), entry["size"].as_u64().unwrap())
    );
    assert_eq!(solved.config_digest(), manifest["config"]["digest"].as_str());
}

#[tokio::test]
async fn an_oci_directory_is_a_layout_that_grows() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("layout");
    let client = client(&daemon).await;
    let first = done(client.solve(image("dir-one")).export(Export::oci_dir(&out))).await;
    let layout = Layout::from_dir(&out);
    let entry = layout.only();
    assert_eq!(entry["digest"], first.digest());
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "latest");
    let manifest = layout.blob_json(&entry);
    assert!(layout.layers(&manifest)[0].iter().any(|file| file.path == "f" && file.data == b"dir-one"));

    let named = Export::oci_dir(&out).name("example.org/two:v2");
    let second = done(client.solve(image("dir-two")).export(named)).await;
    let layout = Layout::from_dir(&out);
    let index = layout.json("index.json");
    let digests: Vec<&Value> = index["manifests"].as_array().unwrap().iter().map(|e| &e["digest"]).collect();
    assert_eq!(digests, [first.digest(), second.digest()]);
    assert_eq!(index["manifests"][1]["annotations"]["io.containerd.image.name"], "example.org/two:v2");
    assert_eq!(index["manifests"][1]["annotations"]["org.opencontainers.image.ref.name"], "v2");
    let left: Vec<_> = layout.names().into_iter().filter(|name| !name.starts_with("blobs/sha256/")).collect();
    assert_eq!(left, ["index.json", "oci-layout"]);

    // The same image again: every blob is there, and the entry is replaced.
    let again = done(client.solve(image("dir-one")).export(Export::oci_dir(&out))).await;
    assert_eq!(again.digest(), first.digest());
    assert_eq!(Layout::from_dir(&out).json("index.json")["manifests"].as_array().unwrap().len(), 2);
}

/// A store in memory.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<Digest, Vec<u8>>>>);

#[async_trait::async_trait]
impl ContentStore for Memory {
    async fn info(&self, digest: &Digest) -> std::io::Result<Option<BlobInfo>> {
        let size = self.0.lock().unwrap().get(digest).map(|blob| blob.len() as u64);
        Ok(size.map(|size| BlobInfo { size, written: None }))
    }

    async fn read(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> std::io::Result<Box<dyn tokio::io::AsyncRead + Send + Unpin>> {
        let blob = self.0.lock().unwrap().get(digest).cloned().ok_or(std::io::ErrorKind::NotFound)?;
        let mut blob = std::io::Cursor::new(blob);
        blob.set_position(offset);
        Ok(Box::new(blob))
    }

    async fn create(&self) -> std::io::Result<Box<dyn NewBlob>> {
        Ok(Box::new(MemoryBlob(Vec::new(), self.clone())))
    }
}

struct MemoryBlob(Vec<u8>, Memory);

#[async_trait::async_trait]
impl NewBlob for MemoryBlob {
    async fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    async fn keep(self: Box<Self>, digest: &Digest) -> std::io::Result<()> {
        let Self(data, memory) = *self;
        memory.0.lock().unwrap().insert(digest.clone(), data);
        Ok(())
    }
}

#[tokio::test]
async fn an_image_goes_into_a_store_of_the_caller_and_comes_back_as_a_base() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let memory = Memory::default();
    let store = OciStore::Store(Arc::new(memory.clone()));
    let client = client(&daemon).await;
    let solved = done(client.solve(image("in-memory")).export(Export::oci_dir(store.clone()))).await;
    assert!(memory.0.lock().unwrap().contains_key(&Digest::parse(solved.digest()).unwrap()));

    let dir = tempfile::tempdir().unwrap();
    let next = Dockerfile::new(Context::memory(buildkit_fsutil::memory::MemoryTree::new()))
        .inline("FROM base\n")
        .named_context("base", Context::oci_digest(store, solved.digest()));
    done(client.solve(next).export(Export::local(dir.path()))).await;
    assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"in-memory");
}

/// Calls the engine's own API.
async fn engine(daemon: &Daemon, method: &str, path: &str, body: Vec<u8>) -> (u16, Value) {
    use http_body_util::BodyExt as _;
    let stream = tokio::net::UnixStream::connect(daemon.docker_socket.as_ref().unwrap()).await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(path).header("host", "docker");
    let request = request.header("content-type", "application/x-tar");
    let body = http_body_util::Full::new(bytes::Bytes::from(body));
    let answer = send.send_request(request.body(body).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    // Load answers with a line per event.
    let lines: Vec<Value> =
        text.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    (status, if lines.len() == 1 { lines[0].clone() } else { Value::from(lines) })
}

#[tokio::test]
async fn docker_load_takes_the_docker_archive() {
    let socket = |daemon: &Daemon| daemon.docker_socket.clone();
    let Some((daemon, _)) = Daemon::or_skip_without(Generation::Sid, "Docker Engine", socket) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker.tar");
    let name = format!("example.org/loaded-{}:v1", std::process::id());
    let solve =
        client(&daemon).await.solve(image("docker-archive")).export(Export::docker(&path).name(&name));
    let solved = done(solve).await;
    let archive = std::fs::read(&path).unwrap();
    let manifest = entries(&archive).into_iter().find(|entry| entry.path == "manifest.json").unwrap();
    let manifest: Value = serde_json::from_slice(&manifest.data).unwrap();
    assert_eq!(manifest[0]["RepoTags"][0], name);

    let (status, answer) = engine(&daemon, "POST", "/images/load?quiet=1", archive).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.to_string().contains("Loaded image"), "{answer}");
    let (status, found) = engine(&daemon, "GET", &format!("/images/{name}/json"), Vec::new()).await;
    assert_eq!(status, 200, "{found}");
    assert_eq!(found["Config"]["Cmd"][0], "/f");
    let id = found["Id"].as_str();
    assert!(id == solved.config_digest() || id == Some(solved.digest()), "{found}");
    let (status, _) = engine(&daemon, "DELETE", &format!("/images/{name}"), Vec::new()).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_docker_directory_is_a_layout_with_dockers_types() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    done(client(&daemon).await.solve(image("docker-dir")).export(Export::docker_dir(dir.path()))).await;
    let layout = Layout::from_dir(dir.path());
    let manifest = layout.blob_json(&layout.only());
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
}

#[tokio::test]
async fn two_platforms_are_pushed_as_an_index_and_split_into_directories() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let registry = &daemon.registries.mirror;
    let name = registry.repository("platforms");
    let out = tempfile::tempdir().unwrap();
    let text = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n";
    let own = |arch: &str| format!("{arch} of {name}");
    let files = buildkit_fsutil::memory::MemoryTree::new().file("amd64", own("a")).file("arm64", own("b"));
    let files = files.file("Dockerfile", text);
    let dockerfile = Dockerfile::new(Context::memory(files))
        .platform(&Platform::LINUX_AMD64)
        .platform(&Platform::LINUX_ARM64);
    let solve = client(&daemon).await.solve(dockerfile);
    let solved =
        done(solve.export(Export::image(format!("{name}:v1")).push()).export(Export::local(out.path())))
            .await;

    assert_eq!(std::fs::read_to_string(out.path().join("linux_amd64/arch")).unwrap(), own("a"));
    assert_eq!(std::fs::read_to_string(out.path().join("linux_arm64/arch")).unwrap(), own("b"));
    let repository = name.split_once('/').unwrap().1;
    let (digest, index) = registry.manifest(repository, "v1").await.unwrap();
    assert_eq!(digest, solved.digest());
    assert_eq!(solved.refs(), [format!("{name}:v1@{digest}")]);
    let index: Value = serde_json::from_slice(&index).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    let architectures: Vec<&Value> = entries.iter().map(|entry| &entry["platform"]["architecture"]).collect();
    // Nothing but the platforms: attestations come only when they are asked for.
    assert_eq!(architectures, ["amd64", "arm64"]);
    let arm = entries[1]["digest"].as_str().unwrap();
    let manifest: Value =
        serde_json::from_slice(&registry.manifest(repository, arm).await.unwrap().1).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let layer = buildkit_tests::oci::unpacked(&registry.blob(repository, layer).await.unwrap());
    assert_eq!(layer.iter().find(|file| file.path == "arch").unwrap().data, own("b").as_bytes());
}

#[tokio::test]
async fn one_platform_is_split_when_that_is_asked_for() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let out = tempfile::tempdir().unwrap();
    let export = Export::local(out.path()).platform_split(true);
    done(client(&daemon).await.solve(image("split").platform(&Platform::LINUX_AMD64)).export(export)).await;
    assert!(out.path().join("linux_amd64/f").exists());
}

async fn pushed(daemon: &Daemon, name: &str, tag: &str) -> Value {
    let repository = name.split_once('/').unwrap().1;
    let (_, manifest) = daemon.registries.mirror.manifest(repository, tag).await.unwrap();
    serde_json::from_slice(&manifest).unwrap()
}

#[tokio::test]
async fn compression_annotations_and_names_reach_the_registry() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let name = daemon.registries.mirror.repository("options");
    let export = Export::image(format!("{name}:a,{name}:b"))
        .push()
        .insecure()
        .compression(Compression::Zstd)
        .compression_level(3)
        .force_compression()
        .annotation("who", "us")
        .store(false);
    let solved = done(client(&daemon).await.solve(image("options")).export(export)).await;
    assert_eq!(solved.names(), [format!("{name}:a"), format!("{name}:b")]);
    for tag in ["a", "b"] {
        let manifest = pushed(&daemon, &name, tag).await;
        assert_eq!(manifest["annotations"]["who"], "us");
        assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    }
}

#[tokio::test]
async fn a_push_by_digest_leaves_no_tag() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let registry = &daemon.registries.mirror;
    let name = registry.repository("by-digest");
    let export = Export::image(&name).push().push_by_digest().canonical_name();
    let solved = done(client(&daemon).await.solve(image("by-digest")).export(export)).await;
    let repository = name.split_once('/').unwrap().1;
    assert_eq!(registry.manifest(repository, solved.digest()).await.unwrap().0, solved.digest());
    assert!(registry.manifest(repository, "latest").await.is_err());
}

#[tokio::test]
async fn an_image_without_a_name_gets_one_of_its_digest() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let export = Export::image("").dangling_name_prefix("dangling").unpack();
    let solved = done(client(&daemon).await.solve(image("dangling")).export(export)).await;
    assert!(solved.digest().starts_with("sha256:"));
    assert!(solved.get("image.name").is_none_or(|name| name.starts_with("dangling@sha256:")), "{solved:?}");
}

#[tokio::test]
async fn attestations_come_when_they_are_asked_for() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(&daemon).await;
    let plain = dir.path().join("plain");
    done(client.solve(image("attested")).export(Export::oci_dir(&plain))).await;
    let layout = Layout::from_dir(&plain);
    assert!(layout.only()["mediaType"].as_str().unwrap().contains("manifest.v1"), "no attestation, no index");

    let graph = buildkit_llb::scratch().mkfile("/f", 0o644, "attested");
    for (name, solve) in [("dockerfile", client.solve(image("attested"))), ("graph", client.solve(graph))] {
        let attested = dir.path().join(name);
        done(solve.attest_provenance(Provenance::Max).export(Export::oci_dir(&attested))).await;
        let layout = Layout::from_dir(&attested);
        let index = layout.blob_json(&layout.only());
        let attestation = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["annotations"]["vnd.docker.reference.type"] == "attestation-manifest");
        let manifest = layout.blob_json(attestation.unwrap_or_else(|| panic!("{name}: {index}")));
        let statement = layout.blob_json(&manifest["layers"][0]);
        let kind = statement["predicateType"].as_str().unwrap();
        assert!(kind.starts_with("https://slsa.dev/provenance/"), "{name}: {kind}");
    }
}

#[tokio::test]
async fn the_same_input_gives_the_same_digest() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let mut digests = Vec::new();
    for time in [1_600_000_000_u64, 1_700_000_000] {
        let context = tempfile::tempdir().unwrap();
        std::fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY f /f\n").unwrap();
        let file = context.path().join("f");
        std::fs::write(&file, "same").unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(time);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        let out = context.path().join("out");
        let solve = client.solve(Dockerfile::new(context.path())).reproducible(1_000_000_000).no_cache();
        let solved = done(solve.export(Export::oci_dir(&out))).await;
        let layout = Layout::from_dir(&out);
        let manifest = layout.blob_json(&layout.only());
        let layer = layout.layers(&manifest).remove(0);
        let times: Vec<u64> = layer.iter().map(|file| file.mtime).collect();
        assert!(times.iter().all(|time| *time == 1_000_000_000), "{times:?}");
        let created = layout.blob_json(&manifest["config"])["created"].clone();
        assert_eq!(created, "2001-09-09T01:46:40Z");
        digests.push(solved.digest().to_owned());
    }
    assert_eq!(digests[0], digests[1]);
}

#[derive(Debug)]
struct AlsoHere(std::path::PathBuf, Arc<Mutex<Option<ResultInfo>>>);

#[async_trait::async_trait]
impl SessionExporter for AlsoHere {
    async fn find(&self, result: &ResultInfo) -> Result<Vec<Export>, BoxError> {
        *self.1.lock().unwrap() = Some(result.clone());
        Ok(vec![Export::local(&self.0).into()])
    }
}

#[tokio::test]
async fn an_exporter_is_chosen_when_the_result_is_known() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (fixed, chosen) = (dir.path().join("fixed"), dir.path().join("chosen"));
    let seen = Arc::default();
    let chooser = AlsoHere(chosen.clone(), Arc::clone(&seen));
    let solve = client(&daemon).await.solve(image("chosen")).export(Export::local(&fixed));
    done(solve.session_exporter(chooser)).await;
    assert_eq!(std::fs::read(fixed.join("f")).unwrap(), b"chosen");
    assert_eq!(std::fs::read(chosen.join("f")).unwrap(), b"chosen");
    let seen = seen.lock().unwrap().clone().unwrap();
    assert!(seen.metadata.contains_key("containerimage.config"), "{seen:?}");
}

#[tokio::test]
async fn an_output_that_fails_fails_the_build_and_says_so() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let output = Output::open(|_| Err::<Vec<u8>, _>(std::io::Error::other("no room here")));
    let error = client(&daemon).await.solve(tree()).export(Export::tar(output)).await.unwrap_err();
    assert!(matches!(error, Error::Local(_)), "{error:?}");
    assert!(report(&error).contains("no room here"), "{}", report(&error));
}

#[tokio::test]
async fn what_is_not_in_the_result_is_deleted_or_the_daemon_is_told_to_be_too_old() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let out = tempfile::tempdir().unwrap();
    std::fs::write(out.path().join("old"), "o").unwrap();
    let built =
        client(&daemon).await.solve(image("deleting")).export(Export::local(out.path()).delete()).await;
    match built {
        Ok(_) => assert!(!out.path().join("old").exists() && out.path().join("f").exists()),
        // Told before the build where the version is known, and when the daemon sends otherwise.
        Err(Error::Unsupported(error)) => assert!(error.what().contains("mode=delete"), "{error}"),
        Err(error) => {
            assert!(report(&error).contains("the daemon is too old to delete"), "{}", report(&error));
            assert!(out.path().join("old").exists());
        }
    }
}

#[tokio::test]
async fn a_daemon_without_a_version_is_asked_for_what_it_can_do() {
    let Some(daemon) = Daemon::or_skip(Generation::Trixie) else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(&daemon).await;
    let chooser = AlsoHere(dir.path().join("chosen"), Arc::default());
    let result = client.solve(image("asked")).session_exporter(chooser).await;
    if daemon.engine.starts_with("26.") {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)) && !error.may_have_run(), "{error:?}");
        assert!(error.to_string().contains("capability exporter.session"), "{error}");
    }
    // What it can do is not refused.
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    done(client.solve(image("asked")).export(Export::local(&one)).export(Export::oci_dir(&two))).await;
    assert!(one.join("f").exists());
    Layout::from_dir(&two).only();
}

#[tokio::test]
async fn the_oldest_daemon_is_not_sent_what_it_would_ignore() {
    let Some(daemon) = Daemon::or_skip(Generation::Bookworm) else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(&daemon).await;
    let error = client.solve(image("old")).export(Export::oci_dir(dir.path())).await.unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("tar=false of the oci exporter") && text.contains("older than BuildKit 0.11"),
        "{text}"
    );
    let out = dir.path().join("out");
    done(client.solve(tree()).export(Export::local(&out))).await;
    assert_eq!(std::fs::read(out.join("dir/file")).unwrap(), b"hello\n");
}
