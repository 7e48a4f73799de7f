//! Writing a received tree below a directory.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::destination::{DestFile, DestFs, DiskDestination, Metadata};
use crate::error::{Refusal, TransferError};
use crate::path;
use crate::receive::{TreeWriter, WantedFile};
use crate::source::Names;
use crate::stat::{FileMode, Kind, Stat};

/// How a received tree is written.
///
/// # Defaults
/// What is there and not received stays; every file is received anew; files belong to this process; devices fail the
/// transfer; setuid and setgid bits and attributes that grant privileges are dropped; the umask of the process takes
/// permissions away from what is received, as with any file it makes; the disk is not waited for.
#[derive(Clone, Default)]
pub struct WriteOptions {
    /// Remove what is there and was not received. Nothing is removed before everything was received.
    pub delete: bool,
    /// Do not ask for files that are there with the same size, time, mode, owner and attributes.
    pub skip_unchanged: bool,
    /// Whom files belong to.
    pub owner: Owner,
    /// What to do about devices.
    pub devices: Devices,
    /// Keep setuid and setgid bits. They are for trees that somebody else will use as a root file system.
    pub preserve_setid: bool,
    /// Keep the attributes below `security.` and `trusted.`, which the kernel grants only to root, and `system.`,
    /// which holds access lists.
    pub preserve_security_xattrs: bool,
    /// Permission bits that are never written, beside those of the umask: `0o027` for example.
    pub mask: u32,
    /// Write modes as received, whatever the umask says. For trees that will be a root file system.
    pub ignore_umask: bool,
    /// Wait at the end until everything is on the disk, so that errors of writing it cannot come later.
    pub sync: bool,
    /// Looks at each entry, may change it (not its path); `false` leaves it out, and everything below a directory.
    pub filter: Option<FilterEntry>,
}

/// See [`WriteOptions::filter`].
pub type FilterEntry = Arc<dyn Fn(&mut Stat) -> bool + Send + Sync>;

impl fmt::Debug for WriteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteOptions")
            .field("delete", &self.delete)
            .field("skip_unchanged", &self.skip_unchanged)
            .field("owner", &self.owner)
            .field("devices", &self.devices)
            .field("preserve_setid", &self.preserve_setid)
            .field("preserve_security_xattrs", &self.preserve_security_xattrs)
            .field("mask", &format_args!("{:04o}", self.mask))
            .field("ignore_umask", &self.ignore_umask)
            .field("sync", &self.sync)
            .field("filter", &self.filter.is_some())
            .finish()
    }
}

/// Whom written files belong to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owner {
    /// This process, as with any file it makes.
    #[default]
    Process,
    /// The user and group received; needs privileges.
    AsSent,
    /// One user and group.
    Fixed {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Attributes that decide who may do what.
const PRIVILEGED: [&str; 3] = ["security.", "trusted.", "system."];

/// What to do about devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Devices {
    /// Fail the transfer.
    #[default]
    Refuse,
    /// Leave them out.
    Skip,
    /// Make them; needs privileges.
    Create,
}

/// Writes a tree below a directory and nowhere else.
///
/// A file is written under a temporary name and renamed when it is complete, so no name ever has half a file. Links
/// and links to files are made the same way. When it is dropped before the end, temporary files are removed.
pub struct DiskWriter {
    dest: Box<dyn DestFs>,
    options: WriteOptions,
    /// The directories above the current entry, the root first.
    levels: Vec<Level>,
    current: Vec<u8>,
    /// Files being written, by id.
    open: HashMap<u32, OpenFile>,
    /// Path and target, to be made when their targets are complete.
    links: Vec<HardLink>,
    /// Directories to finish when nothing changes below them any more.
    dirs: Vec<Stat>,
    removals: Vec<Vec<u8>>,
}

struct Level {
    path_len: usize,
    existing: Names,
    next: usize,
    left_out: bool,
}

struct OpenFile {
    temp: Vec<u8>,
    file: Box<dyn DestFile>,
}

struct HardLink {
    path: Vec<u8>,
    target: Vec<u8>,
    replaces: bool,
}

impl DiskWriter {
    /// Writes to a directory of this machine, which is made first where it is missing.
    ///
    /// # Errors
    /// [`TransferError::Destination`] when it cannot be made or written to.
    pub fn open(path: impl AsRef<Path>, options: WriteOptions) -> Result<Self, TransferError> {
        let dest = DiskDestination::open(path).map_err(failed(b"", "write"))?;
        let umask = if options.ignore_umask { 0 } else { dest.umask() };
        Self::new(dest, WriteOptions { mask: options.mask | umask, ..options })
    }

    /// Writes to any destination.
    ///
    /// # Errors
    /// [`TransferError::Destination`] when its root cannot be listed.
    pub fn new(mut dest: impl DestFs + 'static, options: WriteOptions) -> Result<Self, TransferError> {
        let root = Level { path_len: 0, existing: listed(&mut dest, b"")?, next: 0, left_out: false };
        Ok(Self {
            dest: Box::new(dest),
            options,
            levels: vec![root],
            current: Vec::new(),
            open: HashMap::new(),
            links: Vec::new(),
            dirs: Vec::new(),
            removals: Vec::new(),
        })
    }

    /// Leaves the directories that `path` is not in.
    fn ascend(&mut self, path: Option<&[u8]>) {
        while let Some(level) = self.levels.last() {
            let end = level.path_len;
            let inside = path.is_some_and(|path| {
                end == 0 || path.get(end) == Some(&b'/') && path.get(..end) == self.current.get(..end)
            });
            if inside {
                return;
            }
            if let Some(level) = self.levels.pop() {
                let dir = self.current.get(..end).unwrap_or_default();
                Self::surplus(
                    &self.options,
                    &mut self.removals,
                    dir,
                    &level.existing,
                    level.next..level.existing.len(),
                );
            }
        }
    }

    fn surplus(
        options: &WriteOptions,
        removals: &mut Vec<Vec<u8>>,
        dir: &[u8],
        existing: &Names,
        range: std::ops::Range<usize>,
    ) {
        if options.delete {
            removals
                .extend(range.filter_map(|index| existing.at(index)).map(|(name, _)| path::join(dir, name)));
        }
    }

    /// Whether the name was there before; what comes before it and was not received is surplus.
    fn existed(&mut self, path: &[u8]) -> bool {
        let (dir, name) = path::split(path);
        let Some(level) = self.levels.last_mut() else { return false };
        let start = level.next;
        let mut found = false;
        let mut end = start;
        while let Some((existing, _)) = level.existing.at(level.next) {
            match existing.cmp(name) {
                std::cmp::Ordering::Less => level.next += 1,
                std::cmp::Ordering::Equal => {
                    end = level.next;
                    level.next += 1;
                    found = true;
                    break;
                }
                std::cmp::Ordering::Greater => break,
            }
        }
        if !found {
            end = level.next;
        }
        Self::surplus(&self.options, &mut self.removals, dir, &level.existing, start..end);
        found
    }

    fn directory(&mut self, stat: Stat, existed: bool) -> Result<(), TransferError> {
        let path = &stat.path;
        let mut existing = Names::default();
        let found = if existed { Some(self.dest.stat(path).map_err(failed(path, "look at"))?) } else { None };
        match found {
            Some(found) if found.mode.is_dir() => {
                if found.mode.0 & 0o700 != 0o700 {
                    let mode = FileMode(found.mode.0 | 0o700);
                    self.set(&Stat { mode, path: path.clone(), ..found })?;
                }
                existing = listed(&mut *self.dest, path)?;
            }
            found => {
                if found.is_some() {
                    self.dest.remove_file(path).map_err(failed(path, "replace"))?;
                }
                self.dest.make_dir(path).map_err(taken(path, "create"))?;
            }
        }
        self.levels.push(Level { path_len: path.len(), existing, next: 0, left_out: false });
        self.dirs.push(stat);
        Ok(())
    }

    /// Makes something under a temporary name, finishes it and gives it its name.
    fn special(&mut self, stat: &Stat, existed: bool) -> Result<(), TransferError> {
        let temp = temp_path(path::parent(&stat.path));
        let kind = stat.mode.kind();
        let made = if kind == Kind::Symlink {
            self.dest.symlink(&temp, &stat.link_name)
        } else {
            self.dest.make_node(&temp, kind, stat.dev_major, stat.dev_minor)
        };
        made.map_err(failed(&stat.path, "create"))?;
        let metadata = metadata(&self.options, stat.mode, stat.uid, stat.gid, stat.mod_time);
        let done = self
            .dest
            .set(&temp, kind, &metadata)
            .map_err(failed(&stat.path, "set the metadata of"))
            .and_then(|()| self.place(&temp, &stat.path, existed));
        if done.is_err() {
            let _ = self.dest.remove_file(&temp);
        }
        done
    }

    fn set(&mut self, stat: &Stat) -> Result<(), TransferError> {
        let metadata = Metadata {
            xattrs: (!stat.xattrs.is_empty()).then_some(&stat.xattrs),
            ..metadata(&self.options, stat.mode, stat.uid, stat.gid, stat.mod_time)
        };
        self.dest
            .set(&stat.path, stat.mode.kind(), &metadata)
            .map_err(failed(&stat.path, "set the metadata of"))
    }

    /// Gives what is at `temp` its name.
    fn place(&mut self, temp: &[u8], path: &[u8], replaces: bool) -> Result<(), TransferError> {
        if !replaces {
            return self.dest.rename(temp, path, false).map_err(taken(path, "rename"));
        }
        match self.dest.rename(temp, path, true) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists) =>
            {
                self.remove(path)?;
                self.dest.rename(temp, path, true).map_err(failed(path, "rename"))
            }
            renamed => renamed.map_err(failed(path, "rename")),
        }
    }

    fn hard_link(&mut self, link: &HardLink) -> Result<(), TransferError> {
        let HardLink { path, target, replaces } = link;
        if !replaces {
            return self.dest.link(path, target).map_err(taken(path, "link"));
        }
        let temp = temp_path(path::parent(path));
        self.dest.link(&temp, target).map_err(failed(path, "link"))?;
        let done = self.place(&temp, path, true);
        // Renaming one name of a file to another of its names does nothing: then the temporary one is still there.
        let _ = self.dest.remove_file(&temp);
        done
    }

    /// Removes an entry and all below it.
    fn remove(&mut self, path: &[u8]) -> Result<(), TransferError> {
        // Directories are looked at twice: first to remove what is in them, then to remove themselves.
        let mut open = vec![(path.to_vec(), false)];
        while let Some((path, emptied)) = open.pop() {
            let removed = if emptied { self.dest.remove_dir(&path) } else { self.dest.remove_file(&path) };
            match removed {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let is_dir = !emptied && self.dest.stat(&path).is_ok_and(|stat| stat.mode.is_dir());
                    if !is_dir {
                        return Err(failed(&path, "remove")(error));
                    }
                    let names = listed(&mut *self.dest, &path)?;
                    let children = (0..names.len()).filter_map(|index| names.at(index));
                    let children: Vec<_> =
                        children.map(|(name, _)| (path::join(&path, name), false)).collect();
                    open.push((path, true));
                    open.extend(children);
                }
            }
        }
        Ok(())
    }

    fn prepare(&self, stat: &mut Stat) {
        if !self.options.preserve_security_xattrs {
            let privileged = |name: &String| PRIVILEGED.iter().any(|start| name.starts_with(start));
            stat.xattrs.retain(|name, _| !privileged(name));
        }
        let mut permissions = stat.mode.unix_permissions() & !self.options.mask;
        if !self.options.preserve_setid {
            permissions &= 0o1777;
        }
        stat.mode = stat.mode.with_unix_permissions(permissions);
    }

    fn is_unchanged(&mut self, stat: &Stat) -> bool {
        self.dest.stat(&stat.path).is_ok_and(|found| {
            let same_owner =
                self.options.owner == Owner::Process || (found.uid, found.gid) == (stat.uid, stat.gid);
            same_owner
                && found.mode == stat.mode
                && found.size == stat.size
                && found.mod_time == stat.mod_time
                && found.xattrs == stat.xattrs
        })
    }
}

impl TreeWriter for DiskWriter {
    fn entry(&mut self, mut stat: Stat) -> Result<Option<WantedFile>, TransferError> {
        self.ascend(Some(&stat.path));
        self.current.clone_from(&stat.path);
        if self.levels.last().is_some_and(|level| level.left_out) {
            return Ok(None);
        }
        let existed = self.existed(&stat.path);
        let path = stat.path.clone();
        let mut wanted = self.options.filter.as_ref().is_none_or(|filter| filter(&mut stat));
        stat.path = path;
        let kind = stat.mode.kind();
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            match self.options.devices {
                Devices::Refuse => {
                    return Err(TransferError::Refused { path: stat.path, reason: Refusal::Device });
                }
                Devices::Skip => wanted = false,
                Devices::Create => {}
            }
        }
        if !wanted {
            if kind == Kind::Directory {
                let path_len = stat.path.len();
                self.levels.push(Level { path_len, existing: Names::default(), next: 0, left_out: true });
            }
            return Ok(None);
        }
        self.prepare(&mut stat);
        match kind {
            Kind::Directory => self.directory(stat, existed)?,
            Kind::File if !stat.link_name.is_empty() => {
                self.links.push(HardLink { path: stat.path, target: stat.link_name, replaces: existed });
            }
            Kind::File => {
                if existed && self.options.skip_unchanged && self.is_unchanged(&stat) {
                    return Ok(None);
                }
                return Ok(Some(WantedFile::new(stat, existed)));
            }
            // A socket without anybody behind it is of no use; the reference sends none.
            Kind::Socket | Kind::Unknown => {}
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.special(&stat, existed)?;
            }
        }
        Ok(None)
    }

    fn data(&mut self, id: u32, file: &WantedFile, chunk: &[u8]) -> Result<(), TransferError> {
        let open = match self.open.entry(id) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(create(&mut *self.dest, &file.path)?)
            }
        };
        open.file.write(chunk).map_err(failed(&file.path, "write"))
    }

    fn end(&mut self, id: u32, file: WantedFile) -> Result<(), TransferError> {
        let OpenFile { temp, file: open } = match self.open.remove(&id) {
            Some(open) => open,
            None => create(&mut *self.dest, &file.path)?,
        };
        let metadata = Metadata {
            xattrs: file.xattrs.as_deref(),
            ..metadata(&self.options, file.mode, file.uid, file.gid, file.mod_time)
        };
        let done = open
            .finish(&metadata)
            .map_err(failed(&file.path, "finish"))
            .and_then(|()| self.place(&temp, &file.path, file.replaces));
        if done.is_err() {
            let _ = self.dest.remove_file(&temp);
        }
        done
    }

    fn finish(&mut self) -> Result<(), TransferError> {
        self.ascend(None);
        for link in std::mem::take(&mut self.links) {
            self.hard_link(&link)?;
        }
        for path in std::mem::take(&mut self.removals) {
            self.remove(&path)?;
        }
        // What is below first: a directory may become one that cannot be entered.
        for dir in std::mem::take(&mut self.dirs).iter().rev() {
            self.set(dir)?;
        }
        if self.options.sync { self.dest.sync().map_err(failed(b"", "sync")) } else { Ok(()) }
    }
}

impl Drop for DiskWriter {
    fn drop(&mut self) {
        let open = std::mem::take(&mut self.open);
        for file in open.into_values() {
            let _ = self.dest.remove_file(&file.temp);
        }
    }
}

impl fmt::Debug for DiskWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskWriter")
            .field("options", &self.options)
            .field("at", &format_args!("{}", path::Printable(&self.current)))
            .finish_non_exhaustive()
    }
}

fn create(dest: &mut dyn DestFs, path: &[u8]) -> Result<OpenFile, TransferError> {
    let temp = temp_path(path::parent(path));
    let file = dest.create(&temp).map_err(failed(path, "create"))?;
    Ok(OpenFile { temp, file })
}

fn listed(dest: &mut dyn DestFs, dir: &[u8]) -> Result<Names, TransferError> {
    let mut names = dest.names(dir).map_err(failed(dir, "list"))?;
    names.sort();
    Ok(names)
}

fn metadata(options: &WriteOptions, mode: FileMode, uid: u32, gid: u32, mod_time: i64) -> Metadata<'static> {
    let owner = match options.owner {
        Owner::Process => None,
        Owner::AsSent => Some((uid, gid)),
        Owner::Fixed { uid, gid } => Some((uid, gid)),
    };
    Metadata { owner, permissions: mode.unix_permissions(), xattrs: None, mod_time }
}

fn failed(path: &[u8], action: &'static str) -> impl FnOnce(io::Error) -> TransferError {
    move |source| TransferError::Destination { path: path.to_vec(), action, source }
}

/// A name that was not there is taken: the file system holds it to be the same as another one of this tree.
fn taken(path: &[u8], action: &'static str) -> impl FnOnce(io::Error) -> TransferError {
    move |source| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            TransferError::Refused { path: path.to_vec(), reason: Refusal::NameCollision }
        } else {
            TransferError::Destination { path: path.to_vec(), action, source }
        }
    }
}

/// A name in `dir` that nobody can foresee.
pub(crate) fn temp_path(dir: &[u8]) -> Vec<u8> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let random = RandomState::new().hash_one(COUNT.fetch_add(1, Ordering::Relaxed));
    path::join(dir, format!(".tmp.{random:016x}").as_bytes())
}
