//! A TCP port that ends at the BuildKit of a Docker engine.
//!
//! The engine offers BuildKit's control API to whoever asks it to `Upgrade: h2c` on `POST /grpc`.
//! The bridge does that for each connection and then only copies bytes, which makes the port
//! indistinguishable from a `buildkitd --addr tcp://`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use super::process::Process;
use crate::fail::{Context as _, Result};

const UPGRADE: &[u8] =
    b"POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n";

/// Starts a bridge to an engine's socket. Returns the address it listens on.
pub(crate) fn start(socket: &Path, log: &Path) -> Result<(String, Process)> {
    let listener = TcpListener::bind("127.0.0.1:0").context("a TCP port for BuildKit")?;
    let address = listener.local_addr().context("a TCP port for BuildKit")?.to_string();
    let program = std::env::current_exe().context("our own program")?;
    let mut command = Command::new(program);
    command.args(["buildkit", "bridge"]).arg(socket);
    let process = Process::spawn(&mut command, Stdio::from(std::os::fd::OwnedFd::from(listener)), log)?;
    Ok((address, process))
}

/// Serves the listener on standard input for ever.
pub(crate) fn serve(socket: &Path) -> Result {
    let listener = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    for connection in TcpListener::from(listener).incoming() {
        let connection = connection.context("accepting")?;
        let socket = PathBuf::from(socket);
        thread::spawn(move || {
            if let Err(error) = carry(connection, &socket) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

fn carry(client: TcpStream, socket: &Path) -> Result {
    client.set_nodelay(true).context("a connection")?;
    let mut engine = UnixStream::connect(socket).context(socket.display())?;
    engine.write_all(UPGRADE).context("asking for the upgrade")?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 8192 || engine.read(&mut byte).context("waiting for the upgrade")? == 0 {
            return Err(format!("no upgrade: {}", String::from_utf8_lossy(&head)));
        }
        head.extend(byte);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(format!("no upgrade: {}", String::from_utf8_lossy(&head)));
    }
    let up = (client.try_clone().context("a connection")?, engine.try_clone().context("a connection")?);
    let upwards = thread::spawn(move || {
        let (mut client, mut engine) = up;
        let _ = std::io::copy(&mut client, &mut engine);
        let _ = engine.shutdown(Shutdown::Write);
    });
    let (mut client, mut engine) = (client, engine);
    let _ = std::io::copy(&mut engine, &mut client);
    // The engine has ended: whatever the client still says has nobody to go to.
    let _ = client.shutdown(Shutdown::Both);
    let _ = engine.shutdown(Shutdown::Both);
    upwards.join().map_err(|_| "a copying thread failed".to_owned())
}
