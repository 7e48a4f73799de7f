//! Caches that one build writes and the next one reads, on a real BuildKit.
//!
//! The daemon is shared, so that a cache is not read from an empty one: the record of the step in question is pruned
//! by its text instead, which is the test's own.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use buildkit_client::cache::{CacheImport, InlineCache, LocalCache, RegistryCache};
use buildkit_client::control::Prune;
use buildkit_client::docker_config::DockerConfig;
use buildkit_client::dockerfile::Dockerfile;
use buildkit_client::error::report;
use buildkit_client::export::{Compression, Export};
use buildkit_client::{Client, Solve, Solved, progress};
use buildkit_fsutil::memory::MemoryTree;
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::oci::Layout;
use serde_json::Value;

async fn client(daemon: &Daemon) -> Client {
    Client::connect(daemon.endpoint.as_str()).await.unwrap()
}

/// A Dockerfile whose step gives another result each time it is run. Both of its steps have the salt in their text.
fn stamped(salt: &str) -> Dockerfile {
    let text = format!(
        "FROM alpine AS run\nRUN echo {salt} && mkdir /o && cat /proc/sys/kernel/random/uuid > /o/stamp\n\
         FROM scratch\nCOPY --from=run /o /{salt}\n"
    );
    Dockerfile::new(MemoryTree::new()).inline(text).network(buildkit_llb::Network::None)
}

fn salt(test: &str) -> String {
    format!("{test}-{}", std::process::id())
}

/// Builds, and returns what the step wrote, and whether it was cached.
async fn stamp(solve: Solve, salt: &str) -> (String, bool, Solved) {
    let dir = tempfile::tempdir().unwrap();
    let (sink, mut events) = progress::channel();
    let (salt, name) = (salt.to_owned(), salt.to_owned());
    let watching = tokio::spawn(async move {
        let mut cached = false;
        while let Some(event) = events.next().await {
            if let progress::Event::Status(status) = event {
                cached |= status.vertexes.iter().any(|vertex| vertex.cached && vertex.name.contains(&salt));
            }
        }
        cached
    });
    let solved = solve.export(Export::local(dir.path())).progress(sink).await;
    let solved = solved.unwrap_or_else(|error| panic!("{}", report(&error)));
    let below = dir.path().join(&name).join("stamp");
    let path = if below.exists() { below } else { dir.path().join("stamp") };
    (std::fs::read_to_string(path).unwrap(), watching.await.unwrap(), solved)
}

/// Makes the daemon forget what so many steps with this in their text have made.
async fn forget(client: &Client, salt: &str, steps: u64) {
    let mut gone = 0;
    // A record is in use for a moment after its build has ended.
    for _ in 0..50 {
        let pruned = client.prune(Prune::new().all().filter(format!("description~={salt}"))).await.unwrap();
        gone += pruned.finish().await.unwrap().records;
        if gone >= steps {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{gone} records of {salt} are pruned, not {steps}");
}

/// The first build writes a cache. The second one, without it, shows that the daemon has forgotten the step; the third
/// one finds it in the cache.
async fn hit(
    daemon: &Daemon,
    salt: &str,
    write: impl FnOnce(Solve) -> Solve,
    read: impl Into<CacheImport>,
) -> Solved {
    let client = client(daemon).await;
    let (first, _, solved) = stamp(write(client.solve(stamped(salt))), salt).await;
    forget(&client, salt, 2).await;
    let (other, cached, _) = stamp(client.solve(stamped(salt)), salt).await;
    assert!(!cached && other != first, "the daemon had not forgotten the step");
    forget(&client, salt, 2).await;
    let (again, cached, _) = stamp(client.solve(stamped(salt)).cache_from(read), salt).await;
    assert!(cached, "the step was run again");
    assert_eq!(first, again);
    solved
}

#[tokio::test]
async fn a_registry_cache_is_hit_by_the_next_build() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let registry = &daemon.registries.mirror;
    let salt = salt("registry-cache");
    let name = registry.repository("cache");
    let to = RegistryCache::new(format!("{name}:cache")).max().portable();
    hit(&daemon, &salt, |solve| solve.cache_to(to), RegistryCache::new(format!("{name}:cache"))).await;
    let repository = name.split_once('/').unwrap().1;
    let (_, manifest) = registry.manifest(repository, "cache").await.unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.buildkit.cacheconfig.v0");
}

#[tokio::test]
async fn a_cache_in_a_private_registry_is_read_by_another_daemon() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let Some(other) = Daemon::or_skip(Generation::Trixie) else { return };
    let registry = &daemon.registries.private;
    let config = tempfile::tempdir().unwrap();
    registry.docker_config(config.path()).unwrap();
    let auth = || DockerConfig::from_file(config.path().join("config.json")).unwrap();
    let salt = salt("two-daemons");
    let name = registry.repository("shared-cache");
    let to = RegistryCache::new(&name).max().compression(Compression::Gzip);
    let (first, _, _) =
        stamp(client(&daemon).await.solve(stamped(&salt)).auth(auth()).cache_to(to), &salt).await;
    let solve = client(&other).await.solve(stamped(&salt)).auth(auth()).cache_from(RegistryCache::new(&name));
    let (second, cached, _) = stamp(solve, &salt).await;
    assert!(cached);
    assert_eq!(first, second);
}

#[tokio::test]
async fn a_local_cache_is_hit_by_the_next_build() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c\u{e4}che");
    let salt = salt("local-cache");
    let to = LocalCache::new(&path).max().tag("mine").image_manifest(true);
    let solved = hit(&daemon, &salt, |solve| solve.cache_to(to), LocalCache::new(&path).tag("mine")).await;
    let layout = Layout::from_dir(&path);
    let entry = layout.only();
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "mine");
    assert_eq!(entry["digest"], solved.cache_manifest().unwrap().digest);
}

async fn write_local(client: &Client, salt: &str, path: &Path, reset: bool) -> String {
    let cache = LocalCache::new(path).max();
    let cache = if reset { cache.reset() } else { cache };
    stamp(client.solve(stamped(salt)).cache_to(cache), salt).await.0
}

#[tokio::test]
async fn a_local_cache_grows_until_it_is_reset() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = client(&daemon).await;
    write_local(&client, &salt("grows-one"), dir.path(), false).await;
    let one = Layout::from_dir(dir.path()).names().len();
    write_local(&client, &salt("grows-two"), dir.path(), false).await;
    let two = Layout::from_dir(dir.path()).names().len();
    assert!(two > one, "{two} files after {one}");
    // Times of files have to differ from that of the start of the build.
    tokio::time::sleep(Duration::from_millis(50)).await;
    write_local(&client, &salt("grows-two"), dir.path(), true).await;
    let layout = Layout::from_dir(dir.path());
    assert_eq!(layout.names().len(), one, "{:?}", layout.names());
    layout.only();
}

#[tokio::test]
async fn a_cache_that_is_not_there_is_left_out() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let salt = salt("no-cache");
    let solve =
        client(&daemon).await.solve(stamped(&salt)).cache_from(LocalCache::new(dir.path().join("none")));
    let solve = solve.cache_from(RegistryCache::new(daemon.registries.mirror.repository("never")));
    assert!(!stamp(solve, &salt).await.1);
    assert!(!dir.path().join("none").exists());
}

#[tokio::test]
async fn an_inline_cache_travels_with_the_image() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let salt = salt("inline-cache");
    let name = daemon.registries.mirror.repository("inline");
    let client = client(&daemon).await;
    // An inline cache knows the steps of the image itself, not those of the stages it copies from.
    let text = format!("FROM alpine\nRUN echo {salt} && cat /proc/sys/kernel/random/uuid > /stamp\n");
    let dockerfile = || Dockerfile::new(MemoryTree::new()).inline(&text).network(buildkit_llb::Network::None);
    let image = Export::image(format!("{name}:v1")).push();
    let (first, _, _) =
        stamp(client.solve(dockerfile()).export(image).cache_to(InlineCache::new()), &salt).await;
    forget(&client, &salt, 1).await;
    let solve = client.solve(dockerfile()).cache_from(RegistryCache::new(format!("{name}:v1")));
    let (second, cached, _) = stamp(solve, &salt).await;
    assert!(cached);
    assert_eq!(first, second);
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_fails_the_build_unless_told_otherwise() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let salt = salt("unwritable");
    let dead = || RegistryCache::new("127.0.0.1:1/no/cache");
    let error = client.solve(stamped(&salt)).cache_to(dead()).await.unwrap_err();
    assert!(report(&error).contains("127.0.0.1:1"), "{}", report(&error));
    client
        .solve(stamped(&salt))
        .cache_to(dead().ignore_error())
        .await
        .unwrap_or_else(|e| panic!("{}", report(&e)));
}

#[tokio::test]
async fn layers_of_a_cache_have_the_compression_that_was_asked_for() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let cache = LocalCache::new(dir.path()).max().compression(Compression::Zstd).force_compression();
    let salt = salt("zstd-cache");
    stamp(client(&daemon).await.solve(stamped(&salt)).cache_to(cache), &salt).await;
    let layout = Layout::from_dir(dir.path());
    let manifest = layout.blob_json(&layout.only());
    let layers = manifest["layers"].as_array().or(manifest["manifests"].as_array()).unwrap().clone();
    let types: Vec<&str> = layers.iter().filter_map(|layer| layer["mediaType"].as_str()).collect();
    assert!(types.iter().any(|kind| kind.ends_with("+zstd")), "{types:?}");
}
