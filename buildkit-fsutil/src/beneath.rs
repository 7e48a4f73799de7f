//! Opening paths below a directory handle without ever following a symbolic link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};

/// Opens `path` below `root`; the empty path is `root` itself. No component may be a symbolic link, and nothing
/// that happens to the tree meanwhile can lead outside.
pub(crate) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path = if path.is_empty() { b"." } else { path };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if path.len() < 4096
        && let Some(opened) = at_once(root, path, flags)
    {
        return opened;
    }
    by_component(root, path, flags)
}

/// One system call that resolves the whole path; `None` where the kernel has none.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn at_once(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Option<io::Result<OwnedFd>> {
    use rustix::fs::{ResolveFlags, openat2};
    use rustix::io::Errno;
    use std::sync::atomic::{AtomicBool, Ordering};

    static MISSING: AtomicBool = AtomicBool::new(false);
    if MISSING.load(Ordering::Relaxed) {
        return None;
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN says that a rename elsewhere was under way; it passes.
    for _ in 0..64 {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Old kernels lack the call; sandboxes that do not know it answer EPERM.
            Err(Errno::NOSYS | Errno::PERM) => {
                MISSING.store(true, Ordering::Relaxed);
                return None;
            }
            opened => return Some(opened.map_err(Into::into)),
        }
    }
    None
}

/// The same, a component at a time, each opened below the one before.
pub(crate) fn by_component(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let (dirs, name) = crate::path::split(path);
    let mut current: Option<OwnedFd> = None;
    for part in dirs.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        let below = current.as_ref().map_or(root, AsFd::as_fd);
        current = Some(component(
            below,
            part,
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | path_only(),
        )?);
    }
    component(current.as_ref().map_or(root, AsFd::as_fd), name, flags)
}

fn component(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    if name == b".." {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::io::retry_on_intr(|| openat(dir, name, flags, Mode::empty()))?)
}

/// Enough to go on from, without the right to read.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn path_only() -> OFlags {
    OFlags::PATH
}

/// Enough to go on from; there is nothing less than reading here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn path_only() -> OFlags {
    OFlags::RDONLY
}
