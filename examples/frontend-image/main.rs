//! Puts a frontend's program into an image `FROM scratch` and pushes it.
//!
//! `cargo xtask frontend-image` builds the programs and calls this for each.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a command-line program

use std::path::PathBuf;
use std::process::ExitCode;

use buildkit_client::export::Export;
use buildkit_client::{Client, progress};
use buildkit_frontend::ImageConfig;
use buildkit_llb::{Copy, FileSteps, Local, Platform, State, scratch};
use clap::Parser;

/// What a frontend of ours understands unless it is said otherwise.
const CAPS: &str =
    "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts";

/// Makes a frontend image of a static program.
#[derive(Parser)]
struct Args {
    /// The daemon; BUILDKIT_HOST or the default socket when absent
    #[arg(long)]
    addr: Option<String>,
    /// The program
    #[arg(long)]
    program: PathBuf,
    /// The name of the image
    #[arg(long)]
    name: String,
    /// The platform of the program
    #[arg(long, default_value = "linux/amd64")]
    platform: Platform,
    /// The capabilities the image says it has
    #[arg(long, default_value = CAPS)]
    caps: String,
    /// Let the frontend use the network itself; the daemon fetches sources without it too
    #[arg(long)]
    network: bool,
}

/// The image's only layer: the program, the same bytes whenever it is made.
fn image(program: &str) -> State {
    let local = Local::new("program").include([program]).name(format!("load {program}"));
    let copy = Copy::new(State::from(local), format!("/{program}"), "/frontend").mode(0o755);
    FileSteps::new(scratch(), copy.created(buildkit_llb::Timestamp::from_secs(0)))
        .name("add the program")
        .into()
}

fn config(args: &Args) -> ImageConfig {
    let config = ImageConfig::new(&args.platform)
        .entrypoint(["/frontend"])
        .dir("/")
        .label("moby.buildkit.frontend.caps", &args.caps);
    if args.network { config } else { config.label("moby.buildkit.frontend.network.none", "true") }
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let client = match &args.addr {
        Some(addr) => Client::connect(addr).await?,
        None => Client::from_env().await?,
    };
    let name = args.program.file_name().and_then(|name| name.to_str()).ok_or("the program has no name")?;
    let dir = args.program.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(".".as_ref());
    let config = String::from_utf8(config(&args).to_json().to_vec())?;
    let solved = client
        .solve(image(name).marshal(&args.platform)?)
        .local("program", dir)
        .export(Export::image(&args.name).attr("containerimage.config", config).push())
        .progress(progress::auto())
        .await?;
    println!("{}@{}", args.name, solved.digest());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", buildkit_client::error::report(&*error));
            ExitCode::FAILURE
        }
    }
}
