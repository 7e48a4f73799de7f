//! The key by which daemons know which sessions belong to one user, so that those may share tokens.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

const SEED: usize = 16;
/// A file larger than this is not ours.
const MAX_FILE: u64 = 1 << 20;
/// Another process may hold the lock for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Signs for a host. Its key depends on the daemon's salt and on a seed of this user.
pub(super) struct Authority(Ed25519KeyPair);

impl Authority {
    /// `seed` is `None` for a host without a secret: such sessions all share one key.
    pub(super) fn new(salt: &[u8], seed: Option<&Secret>) -> Option<Self> {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, salt);
        let tag = ring::hmac::sign(&key, seed.map_or(&[], |seed| seed.reveal()));
        Ed25519KeyPair::from_seed_unchecked(tag.as_ref()).ok().map(Self)
    }

    pub(super) fn public_key(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    /// The signature, followed by the payload.
    pub(super) fn sign(&self, payload: &[u8]) -> Vec<u8> {
        let mut signed = self.0.sign(payload).as_ref().to_vec();
        signed.extend_from_slice(payload);
        signed
    }
}

/// The seeds of a user, one a host.
#[derive(Clone)]
pub(super) struct Seeds {
    dir: Option<PathBuf>,
    held: Arc<Mutex<BTreeMap<String, Secret>>>,
}

#[derive(Default, Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "Seed", default)]
    seed: String,
}

impl Seeds {
    pub(super) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, held: Arc::default() }
    }

    /// The seed of a host, made when there is none. It is kept in memory only where the directory cannot be written.
    pub(super) async fn seed(&self, host: &str) -> Secret {
        if let Some(seed) = self.held().get(host) {
            return seed.clone();
        }
        let kept = match self.dir.clone() {
            Some(dir) => {
                let host = host.to_owned();
                let kept = tokio::task::spawn_blocking(move || on_disk(&dir, &host)).await;
                kept.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        let seed = kept.unwrap_or_else(|error| {
            tracing::debug!(%error, "the token seed is kept in memory");
            fresh()
        });
        self.held().entry(host.to_owned()).or_insert(seed).clone()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Secret>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh() -> Secret {
    let mut seed = vec![0; SEED];
    let random = ring::rand::SystemRandom::new();
    // Without randomness the key is one that everybody has: tokens are then shared more widely, nothing else.
    if ring::rand::SecureRandom::fill(&random, &mut seed).is_err() {
        tracing::warn!("no randomness for the token seed");
    }
    Secret::new(seed)
}

/// Reads the seed of a host from the directory, or adds one. Blocks.
fn on_disk(dir: &Path, host: &str) -> io::Result<Secret> {
    let _lock = lock(&dir.join(".token_seed.lock"))?;
    let path = dir.join(".token_seed");
    let mut seeds: BTreeMap<String, Entry> = match File::open(&path) {
        Ok(file) => {
            let mut json = Vec::new();
            file.take(MAX_FILE).read_to_end(&mut json)?;
            // A broken file is written anew: it holds nothing that cannot be made again.
            serde_json::from_slice(&json).unwrap_or_default()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(error),
    };
    if let Some(entry) = seeds.get(host)
        && let Ok(seed) = STANDARD.decode(&entry.seed)
        && !seed.is_empty()
    {
        return Ok(Secret::new(seed));
    }
    let seed = fresh();
    seeds.insert(host.to_owned(), Entry { seed: STANDARD.encode(seed.reveal()) });
    let json = serde_json::to_vec_pretty(&seeds)?;
    let temporary = dir.join(format!(".token_seed.{}", crate::progress::hex(fresh().reveal())));
    let mut file = private(&temporary)?;
    let written = file.write_all(&json).and_then(|()| std::fs::rename(&temporary, &path));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(seed)
}

/// Creates a file that only its owner can read.
fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Waits for the lock that other programs take too; it is released when the file is closed.
fn lock(path: &Path) -> io::Result<File> {
    let file = private(path)?;
    let start = Instant::now();
    loop {
        #[cfg(unix)]
        let taken = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from);
        #[cfg(not(unix))]
        let taken: io::Result<()> = Ok(());
        match taken {
            Ok(()) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Authority, Seeds};
    use crate::progress::hex;
    use crate::secret::Secret;

    #[test]
    fn keys_and_signatures_are_those_of_the_reference() {
        let (salt, payload) = ([7; 32], [9; 32]);
        for (seed, key, signature) in [
            (
                Some(Secret::from("0123456789abcdef")),
                "594f5853708d39119597d6c573f1761da4abbbc4b7f9e4029a57a81e4dc34a3a",
                "b89f4293ac6aab553d25067d01a6953567a9af3cbe219852d630b2866ccb945e\
                 b4b2f6886f5c049a098456477e4717c7adda2db90d37ada1f6740358ae29280f",
            ),
            (
                None,
                "caa40e46d7281a0e7cf7da9ff4e5b690d33ecba8b7001c7eff7a659ace2e1543",
                "07f4f6411ae9bba63478030751be79500773bd80073f130f143f58b2a27ef793\
                 71f17b78bdb779ce4f277388f9cf0f59a9e288ad5b80a7a6efb4f68d3ec02104",
            ),
        ] {
            let authority = Authority::new(&salt, seed.as_ref()).unwrap();
            assert_eq!(hex(&authority.public_key()), key);
            assert_eq!(hex(&authority.sign(&payload)), format!("{signature}{}", hex(&payload)));
        }
    }

    #[tokio::test]
    async fn a_seed_is_kept_for_the_next_program() {
        let dir = tempfile::tempdir().unwrap();
        let seeds = || Seeds::new(Some(dir.path().to_owned()));
        let first = seeds().seed("reg.local").await;
        assert_eq!(first.len(), 16);
        assert_eq!(seeds().seed("reg.local").await, first);
        assert_ne!(seeds().seed("other").await, first);
        let json = std::fs::read_to_string(dir.path().join(".token_seed")).unwrap();
        assert!(json.contains("\n  \"reg.local\": {\n    \"Seed\": \""), "{json}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(dir.path().join(".token_seed")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[tokio::test]
    async fn without_a_directory_the_seed_lives_as_long_as_the_session() {
        for dir in [None, Some("/nonexistent/dir".into())] {
            let seeds = Seeds::new(dir);
            let first = seeds.seed("h").await;
            assert_eq!(seeds.clone().seed("h").await, first);
            assert_ne!(Seeds::new(None).seed("h").await, first);
        }
    }

    #[tokio::test]
    async fn a_broken_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".token_seed"), "not json").unwrap();
        let seeds = Seeds::new(Some(dir.path().to_owned()));
        let first = seeds.seed("h").await;
        assert_eq!(Seeds::new(Some(dir.path().to_owned())).seed("h").await, first);
    }
}
