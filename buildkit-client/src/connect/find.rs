//! Which daemon to use when nobody says: the usual places on this machine.

use super::Address;
use crate::error::{ConnectError, ConnectErrorKind};
use std::ffi::OsString;
use std::path::Path;

impl Address {
    /// The daemon of `BUILDKIT_HOST`; without it the first of these whose socket is there and may be used:
    ///
    /// 1. buildkitd's own socket ([`default_socket`](Self::default_socket));
    /// 2. a rootless buildkitd's, below `XDG_RUNTIME_DIR`;
    /// 3. the Docker Engine of `DOCKER_HOST`, where that is `unix://` or `tcp://` without TLS;
    /// 4. the Docker Engine at `/var/run/docker.sock`.
    ///
    /// Looks at the file system only: that a daemon answers is found out when it is connected to.
    ///
    /// # Errors
    /// When `BUILDKIT_HOST` cannot be understood, or none of the places has a socket.
    pub fn find() -> Result<Self, ConnectError> {
        if let Some(address) = Self::from_env()? {
            return Ok(address);
        }
        first(usual_places(&|name| std::env::var_os(name)), &|socket| {
            rustix::fs::access(socket, rustix::fs::Access::WRITE_OK).is_ok()
        })
    }
}

fn usual_places(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<Address> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut places = vec![Address::default_socket()];
    if let Some(dir) = set("XDG_RUNTIME_DIR") {
        places.push(Address::Unix { path: Path::new(&dir).join("buildkit/buildkitd.sock") });
    }
    let docker = set("DOCKER_HOST").filter(|_| set("DOCKER_TLS_VERIFY").is_none());
    // What cannot be understood, or is reached in another way (ssh, fd), is not ours to use.
    if let Some(host) = docker.as_ref().and_then(|host| host.to_str())
        && (host.starts_with("unix://") || host.starts_with("tcp://"))
        && let Ok(address) = format!("docker://{host}").parse()
    {
        places.push(address);
    }
    places.push(Address::DockerSocket { path: super::address::DOCKER_SOCKET.into() });
    places
}

fn first(places: Vec<Address>, usable: &dyn Fn(&Path) -> bool) -> Result<Address, ConnectError> {
    let mut tried = Vec::new();
    for place in places {
        match &place {
            Address::Unix { path } | Address::DockerSocket { path } if !usable(path) => {
                tried.push(path.display().to_string());
            }
            _ => return Ok(place),
        }
    }
    Err(ConnectError::new("BuildKit on this machine", ConnectErrorKind::NoneFound { tried }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)], sockets: &[&str]) -> Result<String, String> {
        let variable = |name: &str| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| OsString::from(value))
        };
        let usable = |socket: &Path| sockets.iter().any(|other| Path::new(other) == socket);
        let address = first(usual_places(&variable), &usable);
        address.map(|address| address.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_socket_that_is_there_is_taken() {
        let (own, docker) = ("/run/buildkit/buildkitd.sock", "/var/run/docker.sock");
        let rootless = [("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(found(&[], &[own, docker]).unwrap(), format!("unix://{own}"));
        assert_eq!(found(&[], &[docker]).unwrap(), format!("docker://{docker}"));
        let socket = "/run/user/7/buildkit/buildkitd.sock";
        assert_eq!(found(&rootless, &[socket, docker]).unwrap(), format!("unix://{socket}"));
        for (host, expected) in [
            ("unix:///d.sock", "docker:///d.sock"),
            ("tcp://engine:2375", "docker://engine:2375"),
            ("ssh://me@there", "docker:///var/run/docker.sock"),
        ] {
            assert_eq!(found(&[("DOCKER_HOST", host)], &["/d.sock", docker]).unwrap(), expected);
        }
        let with_tls = [("DOCKER_HOST", "tcp://engine:2376"), ("DOCKER_TLS_VERIFY", "1")];
        assert_eq!(found(&with_tls, &[docker]).unwrap(), format!("docker://{docker}"));
    }

    #[test]
    fn where_nothing_is_the_places_are_named() {
        let error = found(&[("XDG_RUNTIME_DIR", "/r")], &[]).unwrap_err();
        for text in ["/run/buildkit/buildkitd.sock", "/r/buildkit/buildkitd.sock", "/var/run/docker.sock"] {
            assert!(error.contains(text), "{error}");
        }
        assert!(error.contains("set BUILDKIT_HOST"), "{error}");
    }
}
