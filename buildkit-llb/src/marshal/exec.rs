//! Processes as the wire has them.

use std::borrow::Cow;

use buildkit_proto::canonical::Writer;
use buildkit_proto::pb;

use super::{Marshaller, Scratch, fail};
use crate::caps::{Cap, Caps};
use crate::error::{Error, ErrorKind};
use crate::exec::{ExecOp, Extra, MountOptions, MountPoint, Output, host_address};
use crate::graph::Vertex;
use crate::mount::{ContentCache, CustomKind, Secret, Sharing, Ssh};
use crate::state::{Network, Security};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Marshaller<'_> {
    pub(super) fn exec(
        &self,
        vertex: &Vertex,
        exec: &ExecOp,
        scratch: &mut Scratch,
        caps: &mut Caps,
    ) -> Result<(), Error> {
        static PLAIN: Extra = Extra {
            proxy: None,
            secrets: Vec::new(),
            ssh: Vec::new(),
            devices: Vec::new(),
            valid_exit_codes: Vec::new(),
        };
        let extra = exec.extra.as_deref().unwrap_or(&PLAIN);
        let context = &*exec.context;
        if let Some(error) = &exec.command.error {
            return Err(fail(vertex, ErrorKind::CommandLine((**error).clone())));
        }
        if exec.command.args.is_empty() {
            return Err(fail(vertex, ErrorKind::NoArguments));
        }
        caps.insert(Cap::EXEC_META_BASE);
        let Scratch { out, inputs, positions } = scratch;
        for point in &*exec.mounts {
            positions.push(match &point.source {
                None => -1,
                Some(edge) => inputs.position(self.resolve(edge)?),
            });
            check(vertex, point, caps)?;
        }
        for secret in &extra.secrets {
            caps.insert(Cap::EXEC_MOUNT_SECRET);
            if secret.env.is_some() {
                caps.insert(Cap::EXEC_SECRETENV);
            }
        }
        for (present, cap) in [
            (!extra.ssh.is_empty(), Cap::EXEC_MOUNT_SSH),
            (!context.ulimits.is_empty(), Cap::EXEC_META_ULIMIT),
            (context.network != Network::Sandbox, Cap::EXEC_META_NETWORK),
            (context.security != Security::Sandbox, Cap::EXEC_META_SECURITY),
            (extra.proxy.is_some(), Cap::EXEC_META_PROXYENV),
            (!extra.devices.is_empty(), Cap::EXEC_META_CDI),
            (!extra.valid_exit_codes.is_empty(), Cap::EXEC_VALIDEXITCODE),
        ] {
            if present {
                caps.insert(cap);
            }
        }
        let path = self.default_path(exec, caps);
        let platform = vertex.constraints.explicit_platform().or(context.platform.as_deref());
        self.head(out, vertex, &inputs.list, Some(platform.unwrap_or(self.platform)));

        out.message(2, |out| {
            out.message(1, |out| put_meta(out, exec, extra, path));
            for (point, input) in exec.mounts.iter().zip(positions) {
                out.message(2, |out| put_mount(out, point, *input));
            }
            for secret in &extra.secrets {
                if let Some(dest) = &secret.dest {
                    out.message(2, |out| put_secret(out, secret, dest));
                }
            }
            for (at, ssh) in extra.ssh.iter().enumerate() {
                out.message(2, |out| put_ssh(out, ssh, at));
            }
            out.enumeration(
                3,
                match context.network {
                    Network::Sandbox => pb::NetMode::Unset,
                    Network::Host => pb::NetMode::Host,
                    Network::None => pb::NetMode::None,
                },
            );
            out.enumeration(
                4,
                match context.security {
                    Security::Sandbox => pb::SecurityMode::Sandbox,
                    Security::Insecure => pb::SecurityMode::Insecure,
                },
            );
            for secret in &extra.secrets {
                if let Some(name) = &secret.env {
                    out.message(5, |out| {
                        out.bytes(1, &secret.id);
                        out.bytes(2, name);
                        out.flag(3, secret.optional);
                    });
                }
            }
            for device in &extra.devices {
                out.message(6, |out| {
                    out.bytes(1, &device.name);
                    out.flag(2, device.optional);
                });
            }
        });
        Ok(())
    }

    /// Where a daemon that does not know it by itself finds commands.
    fn default_path(&self, exec: &ExecOp, caps: &mut Caps) -> Option<&'static str> {
        let server = self.options.caps.as_ref()?;
        if server.supports(Cap::EXEC_META_SETSDEFAULTPATH).is_ok() {
            caps.insert(Cap::EXEC_META_SETSDEFAULTPATH);
            return None;
        }
        // Windows finds commands by itself. What counts is the platform of the build, whatever the op's own is.
        let needed = self.platform.os != "windows" && exec.context.env.value("PATH").is_none();
        needed.then_some(PATH)
    }
}

fn put_meta(out: &mut Writer, exec: &ExecOp, extra: &Extra, path: Option<&str>) {
    let context = &*exec.context;
    out.fields(exec.command.args.fields());
    for (key, value) in context.env.iter() {
        out.joined(2, [key, "=", value]);
    }
    if let Some(socket) = extra.ssh.first()
        && context.env.value("SSH_AUTH_SOCK").is_none()
    {
        out.joined(2, ["SSH_AUTH_SOCK=", &socket_path(socket, 0)]);
    }
    if let Some(path) = path {
        out.joined(2, ["PATH=", path]);
    }
    out.bytes(3, &*context.dir);
    out.bytes(4, context.user.as_deref().unwrap_or_default());
    if let Some(proxy) = &extra.proxy {
        out.message(5, |out| {
            out.bytes(1, &proxy.http);
            out.bytes(2, &proxy.https);
            out.bytes(3, &proxy.ftp);
            out.bytes(4, &proxy.no);
            out.bytes(5, &proxy.all);
        });
    }
    for (host, ip) in &*context.hosts {
        out.message(6, |out| {
            out.bytes(1, host);
            out.bytes(2, host_address(*ip));
        });
    }
    out.bytes(7, context.hostname.as_deref().unwrap_or_default());
    for limit in &*context.ulimits {
        out.message(9, |out| {
            out.bytes(1, &limit.name);
            out.int(2, limit.soft);
            out.int(3, limit.hard);
        });
    }
    out.bytes(10, context.cgroup_parent.as_deref().unwrap_or_default());
    // Mount points the daemon made go away with their parents.
    out.flag(11, true);
    out.packed(12, extra.valid_exit_codes.iter().copied());
}

/// What the mount needs of the daemon, unless it cannot be.
fn check(vertex: &Vertex, point: &MountPoint, caps: &mut Caps) -> Result<(), Error> {
    let Some(options) = &point.options else {
        if point.source.is_some() {
            caps.insert(Cap::EXEC_MOUNT_BIND);
        }
        return Ok(());
    };
    if !options.selector.is_empty() {
        caps.insert(Cap::EXEC_MOUNT_SELECTOR);
    }
    match &options.kind {
        CustomKind::Cache { .. } => {
            caps.insert(Cap::EXEC_MOUNT_CACHE);
            caps.insert(Cap::EXEC_MOUNT_CACHE_SHARING);
        }
        CustomKind::Tmpfs { .. } if point.source.is_some() => {
            return Err(fail(vertex, ErrorKind::TmpfsWithSource { dest: point.dest.to_string() }));
        }
        CustomKind::Tmpfs { size } => {
            caps.insert(Cap::EXEC_MOUNT_TMPFS);
            if *size > 0 {
                caps.insert(Cap::EXEC_MOUNT_TMPFS_SIZE);
            }
        }
        CustomKind::Bind => {
            if point.source.is_some() {
                caps.insert(Cap::EXEC_MOUNT_BIND);
            }
        }
    }
    if options.content_cache != ContentCache::Default {
        caps.insert(Cap::EXEC_MOUNT_CACHE_CONTENT);
    }
    Ok(())
}

fn put_mount(out: &mut Writer, point: &MountPoint, input: i64) {
    let output = match point.output {
        Output::Index(index) => i64::from(index),
        Output::Source | Output::Nothing(_) => -1,
    };
    let options = point.options.as_deref();
    out.int(1, input);
    out.bytes(2, options.map_or("", |options| &options.selector));
    out.bytes(3, &*point.dest);
    out.int(4, output);
    if let Some(MountOptions { readonly, content_cache, kind, .. }) = options {
        out.flag(5, *readonly);
        match kind {
            CustomKind::Bind => {}
            CustomKind::Cache { id, sharing } => {
                out.enumeration(6, pb::MountType::Cache);
                out.message(20, |out| {
                    out.bytes(1, id);
                    out.enumeration(
                        2,
                        match sharing {
                            Sharing::Shared => pb::CacheSharingOpt::Shared,
                            Sharing::Private => pb::CacheSharingOpt::Private,
                            Sharing::Locked => pb::CacheSharingOpt::Locked,
                        },
                    );
                });
            }
            CustomKind::Tmpfs { size } => {
                out.enumeration(6, pb::MountType::Tmpfs);
                out.message(19, |out| out.int(1, *size));
            }
        }
        out.enumeration(
            24,
            match content_cache {
                ContentCache::Default => pb::MountContentCache::Default,
                ContentCache::On => pb::MountContentCache::On,
                ContentCache::Off => pb::MountContentCache::Off,
            },
        );
    }
}

fn put_secret(out: &mut Writer, secret: &Secret, dest: &str) {
    out.int(1, -1);
    out.bytes(3, dest);
    out.enumeration(6, pb::MountType::Secret);
    out.message(21, |out| {
        put_served(out, &secret.id, [secret.uid, secret.gid, secret.mode], secret.optional);
    });
}

fn put_ssh(out: &mut Writer, ssh: &Ssh, at: usize) {
    out.int(1, -1);
    out.bytes(3, &*socket_path(ssh, at));
    out.enumeration(6, pb::MountType::Ssh);
    out.message(22, |out| put_served(out, &ssh.id, [ssh.uid, ssh.gid, ssh.mode], ssh.optional));
}

/// What a session serves, and to whom in the container: secrets and sockets have the same fields.
fn put_served(out: &mut Writer, id: &str, access: [u32; 3], optional: bool) {
    out.bytes(1, id);
    for (field, number) in (2..).zip(access) {
        out.uint(field, number);
    }
    out.flag(5, optional);
}

/// Where the socket that is the process's `at`-th is.
fn socket_path(ssh: &Ssh, at: usize) -> Cow<'_, str> {
    match &ssh.dest {
        Some(dest) => Cow::Borrowed(dest),
        None => Cow::Owned(format!("/run/buildkit/ssh_agent.{at}")),
    }
}
