//! The local ends of exporters: checked before a build starts, filled while it runs, and given
//! their names when it has succeeded.

use crate::error::{BoxError, LocalError, RequestError};
use crate::export::{Export, Output, OutputKind, Target, TreeSink};
use crate::request::new_id;
use buildkit_fsutil::disk_writer::WriteOptions;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// The local ends of one build, by the index of their exporter.
#[derive(Clone, Default)]
pub(crate) struct Outputs(Arc<Mutex<BTreeMap<usize, Arc<Entry>>>>);

struct Entry {
    kind: String,
    sink: Sink,
    state: Mutex<State>,
}

enum Sink {
    File(PathBuf),
    /// A path that is no regular file: a pipe, a device. It is written in place.
    Special(PathBuf),
    Writer(Output),
    Dir {
        path: PathBuf,
        options: WriteOptions,
    },
    Tree(Arc<dyn TreeSink>),
}

#[derive(Default)]
struct State {
    temporary: Option<Temporary>,
    /// How often it was opened, and how often all of it was received. Trees come once for each
    /// platform; everything else comes once.
    taken: u32,
    done: u32,
    /// How often it will not come whole, which is not waited for.
    failed: u32,
    /// What the daemon said of the result when it sent the data.
    metadata: BTreeMap<String, String>,
}

/// A file under a name of its own; removed unless it was given its final one.
struct Temporary {
    path: PathBuf,
    kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What an exporter writes to.
pub(crate) enum Opened {
    Stream(Stream),
    Dir { path: PathBuf, options: WriteOptions },
    Tree(Arc<dyn TreeSink>),
}

/// A byte stream on its way to a file or a writer.
pub(crate) enum Stream {
    File(tokio::fs::File),
    Writer(Pin<Box<dyn AsyncWrite + Send + Unpin>>),
}

impl Outputs {
    /// Checks every destination, and makes the temporary files.
    pub(crate) async fn open(exports: &[Export]) -> Result<Self, RequestError> {
        let outputs = Self::default();
        outputs.add(0, exports.to_vec()).await?;
        Ok(outputs)
    }

    /// Adds the ends of further exporters, the first of which has this index.
    pub(crate) async fn add(&self, first: usize, exports: Vec<Export>) -> Result<(), RequestError> {
        // Files are made and directories looked at: not on the runtime's threads.
        let opened = tokio::task::spawn_blocking(move || {
            let mut entries = BTreeMap::new();
            for (index, export) in exports.into_iter().enumerate() {
                if let Some(entry) = Entry::open(export)? {
                    entries.insert(first + index, Arc::new(entry));
                }
            }
            Ok(entries)
        })
        .await;
        let Ok(opened) = opened else {
            return Err(RequestError::option("export", "the destinations could not be checked"));
        };
        self.entries().append(&mut opened?);
        Ok(())
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, index: usize) -> Option<Arc<Entry>> {
        self.entries().get(&index).cloned()
    }

    /// Whether the daemon may send something with `FileSend`.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// What the daemon said of the result to each exporter that sent data to this side.
    pub(crate) fn metadata(&self) -> BTreeMap<usize, BTreeMap<String, String>> {
        let taken = |entry: &Entry| {
            let state = entry.lock();
            (state.taken > 0).then(|| state.metadata.clone())
        };
        self.entries().iter().filter_map(|(index, entry)| Some((*index, taken(entry)?))).collect()
    }

    /// Opens the end of an exporter: once, but for trees, which come once for each platform. `None` when there is none of this index.
    pub(crate) async fn take(
        &self,
        index: usize,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Option<Opened>, LocalError> {
        let Some(entry) = self.get(index) else { return Ok(None) };
        let failed = |error: BoxError| LocalError::new(entry.describe(index), error);
        let temporary = {
            let mut state = entry.lock();
            let is_tree = matches!(entry.sink, Sink::Dir { .. } | Sink::Tree(_));
            if state.taken > 0 && !is_tree {
                return Err(failed("target already exists".into()));
            }
            state.taken += 1;
            state.metadata.clone_from(metadata);
            state.temporary.as_ref().map(|temporary| temporary.path.clone())
        };
        let open = async |path: &Path| {
            let file = tokio::fs::OpenOptions::new().write(true).open(path).await;
            file.map(Stream::File).map_err(|error| failed(error.into()))
        };
        Ok(Some(match (&entry.sink, temporary) {
            (Sink::File(_), Some(path)) => Opened::Stream(open(&path).await?),
            (Sink::Special(path), _) if is_pipe(path) => {
                Opened::Stream(pipe(path).await.map_err(|error| failed(error.into()))?)
            }
            (Sink::File(path) | Sink::Special(path), _) => Opened::Stream(open(path).await?),
            (Sink::Writer(output), _) => {
                let writer = match &output.0 {
                    OutputKind::Open(open) => open(metadata).map_err(|error| failed(error.into()))?,
                    OutputKind::Writer(writer) => Output::take_writer(writer)
                        .ok_or_else(|| failed("the writer was used by an earlier build".into()))?,
                    OutputKind::File(_) => return Ok(None),
                };
                Opened::Stream(Stream::Writer(Box::pin(writer)))
            }
            (Sink::Dir { path, options }, _) => Opened::Dir { path: path.clone(), options: options.clone() },
            (Sink::Tree(sink), _) => Opened::Tree(sink.clone()),
        }))
    }

    /// Notes that an exporter has written everything.
    pub(crate) fn done(&self, index: usize) {
        if let Some(entry) = self.get(index) {
            entry.lock().done += 1;
        }
    }

    /// Notes that an exporter will not write everything, so that it is not waited for.
    pub(crate) fn failed(&self, index: usize) {
        if let Some(entry) = self.get(index) {
            entry.lock().failed += 1;
        }
    }

    /// How messages call an exporter.
    pub(crate) fn describe(&self, index: usize) -> String {
        match self.get(index) {
            Some(entry) => entry.describe(index),
            None => format!("cannot write export {index}"),
        }
    }

    /// Waits for ends that are being written, at most for `limit`: a daemon may report success as
    /// soon as it was told that everything has arrived.
    pub(crate) async fn settle(&self, limit: std::time::Duration) {
        let writing = || {
            self.entries().values().any(|entry| {
                let state = entry.lock();
                state.taken > state.done + state.failed
            })
        };
        let settled = async {
            while writing() {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        let _ = tokio::time::timeout(limit, settled).await;
    }

    /// Takes back what has no name yet when the result is dropped, whoever else still holds these outputs.
    pub(crate) fn abandoned_on_drop(&self) -> Abandon {
        Abandon(self.clone())
    }

    /// The build has succeeded: every file gets its name. Fails when the daemon never sent one.
    pub(crate) async fn commit(&self) -> Result<(), LocalError> {
        let entries = self.entries().clone();
        for (index, entry) in &entries {
            let (temporary, done) = {
                let mut state = entry.lock();
                (state.temporary.take(), state.done > 0 && state.done == state.taken)
            };
            if !done {
                return Err(LocalError::new(
                    entry.describe(*index),
                    "the daemon reported success but never sent its data",
                ));
            }
            if let (Some(temporary), Sink::File(path)) = (temporary, &entry.sink) {
                let path = path.clone();
                let renamed = tokio::task::spawn_blocking(move || temporary.rename(&path)).await;
                renamed
                    .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
                    .map_err(|error| LocalError::new(entry.describe(*index), error))?;
            }
        }
        Ok(())
    }
}

/// See [`Outputs::abandoned_on_drop`].
pub(crate) struct Abandon(Outputs);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.entries().values().for_each(|entry| drop(entry.lock().temporary.take()));
    }
}

impl fmt::Debug for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries().values().map(|entry| &entry.kind)).finish()
    }
}

impl Entry {
    fn open(export: Export) -> Result<Option<Self>, RequestError> {
        let kind = export.kind;
        let failed = |path: &Path, source| RequestError::Path {
            role: format!("output of the {kind} exporter"),
            path: path.to_owned(),
            source,
        };
        let mut state = State::default();
        let sink = match export.target {
            // The blobs of a store do not come as a stream.
            Target::None | Target::Store(_) => return Ok(None),
            Target::Tree(sink) => Sink::Tree(sink),
            Target::Dir { path, options } => {
                check_dir(&path).map_err(|error| failed(&path, error))?;
                Sink::Dir { path, options }
            }
            Target::Stream(output) => match &output.0 {
                OutputKind::File(path) => match std::fs::metadata(path) {
                    Ok(found) if found.is_dir() => {
                        return Err(failed(path, io::ErrorKind::IsADirectory.into()));
                    }
                    Ok(found) if !found.is_file() => Sink::Special(path.clone()),
                    _ => {
                        // A link is followed: the file it names is replaced, not the link.
                        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
                        state.temporary =
                            Some(Temporary::beside(&path).map_err(|error| failed(&path, error))?);
                        Sink::File(path)
                    }
                },
                OutputKind::Writer(_) | OutputKind::Open(_) => Sink::Writer(output),
            },
        };
        Ok(Some(Self { kind, sink, state: Mutex::new(state) }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, index: usize) -> String {
        let to = match &self.sink {
            Sink::File(path) | Sink::Special(path) | Sink::Dir { path, .. } => {
                format!(" to {}", path.display())
            }
            Sink::Writer(_) | Sink::Tree(_) => String::new(),
        };
        format!("cannot write export {index} ({}){to}", self.kind)
    }
}

impl Temporary {
    fn beside(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut temporary = std::ffi::OsString::from(".");
        // Long names must stay below the limit of the file system.
        let shown: String = name.to_string_lossy().chars().take(40).collect();
        temporary.push(shown);
        temporary.push(".");
        temporary.push(&new_id()[..12]);
        let path = path.with_file_name(temporary);
        // The umask applies, and a name that exists is never taken over.
        std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { path, kept: false })
    }

    /// Gives the file its name. What it replaces passes its permissions on.
    fn rename(mut self, to: &Path) -> io::Result<()> {
        if let Ok(old) = std::fs::metadata(to) {
            let _ = std::fs::set_permissions(&self.path, old.permissions());
        }
        std::fs::rename(&self.path, to)?;
        self.kept = true;
        // So that the name survives a crash as well as the content does.
        if let Some(dir) = to.parent().filter(|dir| !dir.as_os_str().is_empty())
            && let Ok(dir) = std::fs::File::open(dir)
        {
            let _ = dir.sync_all();
        }
        Ok(())
    }
}

#[cfg(unix)]
fn is_pipe(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

#[cfg(not(unix))]
fn is_pipe(_: &Path) -> bool {
    false
}

/// Opens a named pipe once somebody reads it. A thread that waited for that could not be called back.
#[cfg(unix)]
async fn pipe(path: &Path) -> io::Result<Stream> {
    loop {
        match tokio::net::unix::pipe::OpenOptions::new().open_sender(path) {
            Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::NXIO) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            opened => return opened.map(|pipe| Stream::Writer(Box::pin(pipe))),
        }
    }
}

#[cfg(not(unix))]
async fn pipe(_: &Path) -> io::Result<Stream> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether a directory can be made or written at this path.
pub(crate) fn check_dir(path: &Path) -> io::Result<()> {
    let mut at = std::path::absolute(path)?;
    loop {
        match std::fs::metadata(&at) {
            Ok(found) if !found.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
            Ok(_) => break,
            // A link to nothing: no directory can be made in its place.
            Err(error) if error.kind() == io::ErrorKind::NotFound && at.symlink_metadata().is_ok() => {
                return Err(error);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !at.pop() {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    #[cfg(unix)]
    rustix::fs::access(&at, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?;
    Ok(())
}

impl Stream {
    /// Writes all of a chunk.
    pub(crate) async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(data).await,
            Self::Writer(writer) => writer.write_all(data).await,
        }
    }

    /// Ends the stream; a file is on disk afterwards.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        match &mut self {
            Self::File(file) => {
                file.flush().await?;
                match file.sync_all().await {
                    // Pipes and devices have nothing to sync.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                    other => other,
                }
            }
            Self::Writer(writer) => {
                writer.flush().await?;
                writer.shutdown().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(export: impl Into<Export>) -> Result<Outputs, RequestError> {
        Outputs::open(&[export.into()]).await
    }

    async fn write(outputs: &Outputs, data: &[u8]) {
        match outputs.take(0, &BTreeMap::new()).await.unwrap().unwrap() {
            Opened::Stream(mut stream) => {
                stream.write(data).await.unwrap();
                stream.finish().await.unwrap();
            }
            _ => panic!("no stream"),
        }
    }

    #[tokio::test]
    async fn f29_a_failed_build_leaves_an_existing_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keep.tar");
        std::fs::write(&path, "old").unwrap();
        let outputs = open(Export::tar(&path)).await.unwrap();
        write(&outputs, b"torn").await;
        drop(outputs);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "a temporary file is left");
    }

    #[tokio::test]
    async fn f30_a_file_gets_its_name_with_the_success_of_the_build() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.tar");
        let outputs = open(Export::tar(&path)).await.unwrap();
        write(&outputs, b"whole").await;
        outputs.done(0);
        assert!(!path.exists());
        outputs.commit().await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn success_without_data_is_no_success() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = open(Export::tar(dir.path().join("x"))).await.unwrap();
        assert!(outputs.commit().await.is_err());
    }

    #[tokio::test]
    async fn f27_destinations_that_cannot_be_are_found_before_the_build() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let kind = |result: Result<Outputs, RequestError>| match result {
            Err(RequestError::Path { source, .. }) => source.kind(),
            other => panic!("{other:?}"),
        };
        assert_eq!(kind(open(Export::tar(dir.path())).await), io::ErrorKind::IsADirectory);
        assert_eq!(kind(open(Export::tar(dir.path().join("no/such"))).await), io::ErrorKind::NotFound);
        assert_eq!(kind(open(Export::local(&file)).await), io::ErrorKind::NotADirectory);
        assert_eq!(kind(open(Export::local(file.join("below"))).await), io::ErrorKind::NotADirectory);
        open(Export::local(dir.path().join("made/when/needed"))).await.unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "checking must not leave anything");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn f31_the_umask_is_honoured_and_a_replaced_file_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        for expected in [mode(&plain), 0o600] {
            let outputs = open(Export::tar(&path)).await.unwrap();
            write(&outputs, b"x").await;
            outputs.done(0);
            outputs.commit().await.unwrap();
            assert_eq!(mode(&path), expected);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    #[tokio::test]
    async fn an_end_is_opened_once() {
        let outputs = open(Export::tar(Output::writer(Vec::new()))).await.unwrap();
        write(&outputs, b"x").await;
        let Err(error) = outputs.take(0, &BTreeMap::new()).await else { panic!("opened twice") };
        assert!(crate::error::report(&error).contains("target already exists"), "{error}");
        assert!(outputs.take(7, &BTreeMap::new()).await.unwrap().is_none());
    }
}
