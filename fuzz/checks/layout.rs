//! What must hold of the index of an OCI layout, whatever it is.

use std::path::PathBuf;
use std::sync::LazyLock;

use buildkit_client::Descriptor;
use buildkit_client::content::{Digest, OciLayout};

/// A lookup ends with an entry that bears the name, with none, or with an error; a digest is never a path.
pub(crate) fn oci_manifest(data: &[u8]) {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let dir = std::env::temp_dir().join(format!("buildkit-fuzz-layout-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        dir
    });
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    }
    std::fs::write(DIR.join("index.json"), data).expect("written");
    for tag in ["latest", "docker.io/library/a:1", "", "../x"] {
        let found = RUNTIME.with(|runtime| runtime.block_on(OciLayout::new(&*DIR).find(tag)));
        if let Ok(Some(found)) = found {
            assert!(found.annotations.values().any(|value| value == tag), "{found:?} for {tag:?}");
        }
    }
    if let Ok(descriptor) = serde_json::from_slice::<Descriptor>(data) {
        let json = serde_json::to_vec(&descriptor).expect("written as JSON");
        assert_eq!(serde_json::from_slice::<Descriptor>(&json).expect("read again"), descriptor);
        if let Some(digest) = Digest::parse(&descriptor.digest) {
            assert!(!digest.as_str().contains(['/', '.', '\\']), "{digest}");
        }
    }
}
