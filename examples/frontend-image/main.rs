//! Puts a frontend's program into an image `FROM scratch` and pushes it.
//!
//! `cargo xtask frontend-image` builds the programs and calls this for each. What the image is made of
//! is in [`image`].

#![allow(clippy::print_stdout, clippy::print_stderr)] // a command-line program

mod image;

use std::path::PathBuf;
use std::process::ExitCode;

use buildkit_client::{Client, progress};
use buildkit_llb::Platform;
use clap::Parser;

use crate::image::{CAPS, FrontendImage};

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
    /// The platform of the program; this machine's when absent
    #[arg(long)]
    platform: Option<Platform>,
    /// The capabilities the image says it has
    #[arg(long, default_value = CAPS)]
    caps: String,
    /// Let the frontend use the network itself; the daemon fetches sources without it too
    #[arg(long)]
    network: bool,
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let client = match &args.addr {
        Some(addr) => Client::connect(addr).await?,
        None => Client::from_env().await?,
    };
    let platform = args.platform.unwrap_or_else(Platform::host);
    let image = FrontendImage { program: args.program, platform, caps: args.caps, network: args.network };
    let solved = image.push(&client, &args.name)?.progress(progress::auto()).await?;
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
