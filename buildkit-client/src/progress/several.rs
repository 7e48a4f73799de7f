//! Several builds on one display.

use std::fmt;
use std::io;
use std::time::Instant;

use super::event::{Event, SolveStatus};
use super::report::Reporter;
use super::{Progress, Renderer};

/// One display for several builds, each under a name.
///
/// ```no_run
/// # async fn f(client: buildkit_client::Client, app: buildkit_llb::State, docs: buildkit_llb::State)
/// # -> Result<(), buildkit_client::Error> {
/// use buildkit_client::progress::{self, Several};
/// let display = Several::new(progress::auto());
/// let app = client.solve(app).progress(display.build("app")).start();
/// let docs = client.solve(docs).progress(display.build("docs")).start();
/// let (app, docs) = (app.await?, docs.await?);
/// display.finish().await;
/// # Ok(()) }
/// ```
pub struct Several {
    reporter: Reporter,
}

impl Several {
    /// Starts the display.
    pub fn new(progress: impl Into<Progress>) -> Self {
        Self { reporter: progress.into().start() }
    }

    /// The progress of one build. Its steps are shown as `[NAME] step`, and those with a prefix of their own, such as
    /// `[stage 1/2] RUN make`, as `[NAME stage 1/2] RUN make`.
    pub fn build(&self, name: impl Into<String>) -> Progress {
        Progress::renderer(Named { name: name.into(), reporter: self.reporter.clone() })
    }

    /// Closes the display and waits until it is written, at most two seconds. Builds that still run are no longer
    /// shown.
    pub async fn finish(self) {
        self.reporter.finish().await;
    }
}

impl fmt::Debug for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Several").finish_non_exhaustive()
    }
}

/// Hands the events of a build to the display, with its name on its steps.
struct Named {
    name: String,
    reporter: Reporter,
}

impl Named {
    fn rename(&self, status: &mut SolveStatus) {
        for vertex in &mut status.vertexes {
            vertex.name = match vertex.name.strip_prefix('[') {
                Some(rest) => format!("[{} {rest}", self.name),
                None => format!("[{}] {}", self.name, vertex.name),
            };
            if let Some(group) = &mut vertex.progress_group {
                // Groups of two builds with one id are two groups.
                group.id = format!("{}/{}", self.name, group.id);
                group.name = format!("[{}] {}", self.name, group.name);
            }
        }
    }
}

impl Renderer for Named {
    fn event(&mut self, event: Event, _: Instant) -> io::Result<()> {
        match event {
            Event::Status(mut status) => {
                self.rename(&mut status);
                self.reporter.status(status);
            }
            // Said again by the display, which sees the log.
            Event::Clipped { .. } => {}
            Event::Incomplete { reason } => self.reporter.incomplete(format!("{}: {reason}", self.name)),
            other => self.reporter.send(other),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{self, Vertex, VertexLog};

    #[tokio::test]
    async fn the_steps_of_each_build_carry_its_name() {
        let (sink, mut events) = progress::channel();
        let display = Several::new(sink);
        for build in ["app", "docs"] {
            let reporter = display.build(build).start();
            let vertex = |name: &str| Vertex {
                digest: format!("{build}{name}"),
                name: name.into(),
                ..Vertex::default()
            };
            let marker = b"[output clipped, log limit 2MiB reached]".as_slice().into();
            let log = VertexLog { vertex: format!("{build}plain"), data: marker, ..VertexLog::default() };
            reporter.status(SolveStatus {
                vertexes: vec![vertex("plain"), vertex("[stage 1/2] RUN make")],
                logs: vec![log],
                ..SolveStatus::default()
            });
            reporter.incomplete("broken");
            reporter.finish().await;
        }
        display.finish().await;
        let (mut names, mut clipped, mut incomplete) = (Vec::new(), 0, Vec::new());
        while let Some(event) = events.next().await {
            match event {
                Event::Status(status) => names.extend(status.vertexes.into_iter().map(|vertex| vertex.name)),
                Event::Clipped { .. } => clipped += 1,
                Event::Incomplete { reason } => incomplete.push(reason),
                Event::Dropped { .. } => panic!("{event:?}"),
            }
        }
        assert_eq!(
            names,
            ["[app] plain", "[app stage 1/2] RUN make", "[docs] plain", "[docs stage 1/2] RUN make"]
        );
        assert_eq!((clipped, incomplete), (2, vec!["app: broken".to_owned(), "docs: broken".to_owned()]));
    }
}
