//! The image of a frontend: its program and what the daemon must know of it.

use std::path::{Path, PathBuf};

use buildkit_client::export::Export;
use buildkit_client::{Client, Solve};
use buildkit_frontend::ImageConfig;
use buildkit_llb::{Copy, FileSteps, Local, Platform, State, Timestamp, scratch};

/// What a frontend of ours understands unless it is said otherwise.
pub(crate) const CAPS: &str =
    "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts";

/// A frontend image to be made.
#[derive(Debug, Clone)]
pub(crate) struct FrontendImage {
    /// The program, linked statically.
    pub(crate) program: PathBuf,
    /// What it runs on.
    pub(crate) platform: Platform,
    /// What it says that it understands.
    pub(crate) caps: String,
    /// Whether it uses the network itself.
    pub(crate) network: bool,
}

impl FrontendImage {
    /// A build that makes the image and pushes it under a name.
    pub(crate) fn push(&self, client: &Client, name: &str) -> Result<Solve, Box<dyn std::error::Error>> {
        let program = self.program.file_name().and_then(|name| name.to_str());
        let program = program.ok_or("the program has no name")?;
        let dir = self.program.parent().filter(|dir| !dir.as_os_str().is_empty());
        let config = String::from_utf8(self.config().to_json().to_vec())?;
        let export = Export::image(name).attr("containerimage.config", config).push();
        let graph = layer(program).marshal(&self.platform)?;
        Ok(client.solve(graph).local("program", dir.unwrap_or(Path::new("."))).export(export))
    }

    fn config(&self) -> ImageConfig {
        let config = ImageConfig::new(&self.platform)
            .entrypoint(["/frontend"])
            .dir("/")
            .label("moby.buildkit.frontend.caps", &self.caps);
        if self.network { config } else { config.label("moby.buildkit.frontend.network.none", "true") }
    }
}

/// The only layer: the program, the same bytes whenever it is made.
fn layer(program: &str) -> State {
    let local = Local::new("program").include([program]).name(format!("load {program}"));
    let copy = Copy::new(State::from(local), format!("/{program}"), "/frontend").mode(0o755);
    FileSteps::new(scratch(), copy.created(Timestamp::from_secs(0))).name(format!("add {program}")).into()
}
