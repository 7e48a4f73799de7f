//! As much of HTTP as the engine's socket and a registry on loopback need.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::fail::{Context as _, Result};

/// A request. It is sent as HTTP/1.0, so that the answer ends with the connection and has no chunks.
#[derive(Debug, Default)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) host: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Response {
    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The answer if its status is the one expected.
    pub(crate) fn expect(self, status: u16) -> Result<Self> {
        if self.status == status {
            return Ok(self);
        }
        Err(format!("status {} instead of {status}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }
}

/// Sends a request over TCP to the request's host.
pub(crate) fn over_tcp(request: &Request<'_>) -> Result<Response> {
    let stream = TcpStream::connect(request.host).context(request.host)?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).context(request.host)?;
    exchange(stream, request).context(format!("{} http://{}{}", request.method, request.host, request.path))
}

/// Sends a request over a Unix socket.
pub(crate) fn over_unix(socket: &Path, request: &Request<'_>) -> Result<Response> {
    let stream = UnixStream::connect(socket).context(socket.display())?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).context(socket.display())?;
    exchange(stream, request).context(format!("{} {} of {}", request.method, request.path, socket.display()))
}

fn exchange(mut stream: impl Read + Write, request: &Request<'_>) -> Result<Response> {
    let headers: String =
        request.headers.iter().flat_map(|(name, value)| [*name, ": ", *value, "\r\n"]).collect();
    let head = format!(
        "{} {} HTTP/1.0\r\nHost: {}\r\n{headers}Content-Length: {}\r\n\r\n",
        request.method,
        request.path,
        request.host,
        request.body.len()
    );
    stream.write_all(head.as_bytes()).context("writing")?;
    stream.write_all(request.body).context("writing")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("reading")?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no end of headers")?;
    let (head, body) = answer.split_at(end);
    let head = String::from_utf8_lossy(head).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).context("no status")?;
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(Response { status, body: body.get(4..).unwrap_or_default().to_vec(), headers })
}
