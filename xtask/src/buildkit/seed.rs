//! The base images: a busybox with its links, pushed as if it were Alpine.

use std::path::Path;
use std::process::Command;

use sha2::{Digest as _, Sha256};

use super::http::{Request, over_tcp};
use crate::fail::{Context as _, Result};
use crate::workspace::output;

/// What the mirror holds, all under the tag `latest`, for amd64 and arm64 (with the same bytes: only
/// steps that run no process work there).
pub(crate) const BASE_IMAGES: &[&str] = &["library/alpine", "library/busybox"];

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Makes the base image from the system's busybox and pushes it.
pub(crate) fn push(rootfs: &Path, registry: &str, name: &str) -> Result {
    let tar = layer(rootfs)?;
    let plain = digest(&tar);
    let archive = rootfs.join("root/base.tar");
    let zipped = std::fs::read(archive.with_extension("tar.gz")).context("the base image's layer")?;
    let layer = blob(registry, name, &zipped)?;
    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let config = serde_json::json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["/bin/sh"],
            },
            "rootfs": {"type": "layers", "diff_ids": [plain]},
            "history": [{"created_by": "busybox"}],
        });
        let config = serde_json::to_vec(&config).context("the image's config")?;
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": blob(registry, name, &config)?,
                "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "digest": layer,
                "size": zipped.len(),
            }],
        });
        let manifest = serde_json::to_vec(&manifest).context("the image's manifest")?;
        let digest = digest(&manifest);
        manifest_put(registry, name, &digest, MANIFEST, &manifest)?;
        manifests.push(serde_json::json!({
            "mediaType": MANIFEST,
            "digest": digest,
            "size": manifest.len(),
            "platform": {"architecture": architecture, "os": "linux"},
        }));
    }
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let index = serde_json::to_vec(&index).context("the image's index")?;
    manifest_put(registry, name, "latest", INDEX, &index)
}

/// The layer as a tar, the same bytes every time; left in the system's `/root` beside its gzip.
fn layer(rootfs: &Path) -> Result<Vec<u8>> {
    const SCRIPT: &str = r#"
        cd /root; rm -rf base base.tar base.tar.gz; mkdir base; cd base
        mkdir -p bin sbin usr/bin usr/sbin etc root tmp var proc sys dev; chmod 1777 tmp
        cp "$(command -v busybox)" bin/busybox
        chroot . /bin/busybox --install -s /bin
        echo "root:x:0:0:root:/root:/bin/sh" > etc/passwd
        echo "nobody:x:65534:65534:nobody:/:/bin/false" >> etc/passwd
        echo "root:x:0:" > etc/group
        echo "nogroup:x:65534:" >> etc/group
        cd ..
        tar -C base --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner -cf base.tar .
        gzip -kn base.tar
        rm -rf base
    "#;
    output(Command::new("chroot").arg(rootfs).args(["sh", "-euc", SCRIPT]))?;
    std::fs::read(rootfs.join("root/base.tar")).context("the base image's layer")
}

fn blob(registry: &str, name: &str, content: &[u8]) -> Result<String> {
    let digest = digest(content);
    let path = format!("/v2/{name}/blobs/uploads/");
    let started = over_tcp(&Request { method: "POST", path: &path, host: registry, ..Request::default() })?;
    let started = started.expect(202).context(&path)?;
    let place = started.header("Location").context("the registry named no place for an upload")?;
    let place = place.split_once(registry).map_or(place, |(_, path)| path);
    let separator = if place.contains('?') { '&' } else { '?' };
    let path = format!("{place}{separator}digest={digest}");
    let headers = &[("Content-Type", "application/octet-stream")];
    let done = over_tcp(&Request { method: "PUT", path: &path, host: registry, headers, body: content })?;
    done.expect(201).context(&path)?;
    Ok(digest)
}

fn manifest_put(registry: &str, name: &str, tag: &str, media_type: &str, body: &[u8]) -> Result {
    let path = format!("/v2/{name}/manifests/{tag}");
    let headers = &[("Content-Type", media_type)];
    let done = over_tcp(&Request { method: "PUT", path: &path, host: registry, headers, body })?;
    done.expect(201).context(&path)?;
    Ok(())
}

fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}
