//! Processes as the wire has them.

use buildkit_proto::pb;

use super::{InputSet, Marshaller, fail};
use crate::caps::{Cap, Caps};
use crate::error::{Error, ErrorKind};
use crate::exec::{ExecOp, Extra, MountPoint, Output, host_address};
use crate::graph::Vertex;
use crate::mount::{ContentCache, CustomKind, Sharing};
use crate::state::{Network, Security};

const PATH_UNIX: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PATH_WINDOWS: &str = "c:\\Windows\\System32;c:\\Windows;C:\\Windows\\System32\\WindowsPowerShell\\v1.0";

impl Marshaller<'_> {
    pub(super) fn exec(
        &self,
        vertex: &Vertex,
        exec: &ExecOp,
        inputs: &mut Vec<pb::Input>,
        caps: &mut Caps,
    ) -> Result<pb::op::Op, Error> {
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

        let mut seen = InputSet::default();
        let mut mounts = Vec::with_capacity(exec.mounts.len() + extra.secrets.len() + extra.ssh.len());
        for point in &exec.mounts {
            let input = match &point.source {
                None => -1,
                Some(edge) => seen.position(self.resolve(edge)?),
            };
            mounts.push(mount(vertex, point, input, caps)?);
        }
        *inputs = seen.list.iter().map(|(entry, index)| self.input(*entry, *index)).collect();

        let mut secret_env = Vec::new();
        for secret in &extra.secrets {
            caps.insert(Cap::EXEC_MOUNT_SECRET);
            if let Some(name) = &secret.env {
                caps.insert(Cap::EXEC_SECRETENV);
                secret_env.push(pb::SecretEnv {
                    id: secret.id.clone(),
                    name: name.clone(),
                    optional: secret.optional,
                });
            }
            if let Some(dest) = &secret.dest {
                mounts.push(pb::Mount {
                    input: -1,
                    dest: dest.clone(),
                    mount_type: pb::MountType::Secret.into(),
                    secret_opt: Some(pb::SecretOpt {
                        id: secret.id.clone(),
                        uid: secret.uid,
                        gid: secret.gid,
                        mode: secret.mode,
                        optional: secret.optional,
                    }),
                    ..pb::Mount::default()
                });
            }
        }
        let mut first_socket = None;
        for (i, ssh) in extra.ssh.iter().enumerate() {
            caps.insert(Cap::EXEC_MOUNT_SSH);
            let dest = ssh.dest.clone().unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{i}"));
            first_socket.get_or_insert_with(|| dest.clone());
            mounts.push(pb::Mount {
                input: -1,
                dest,
                mount_type: pb::MountType::Ssh.into(),
                ssh_opt: Some(pb::SshOpt {
                    id: ssh.id.clone(),
                    uid: ssh.uid,
                    gid: ssh.gid,
                    mode: ssh.mode,
                    optional: ssh.optional,
                }),
                ..pb::Mount::default()
            });
        }

        let mut env = context.env.to_vec();
        if let Some(socket) = first_socket
            && context.env.value("SSH_AUTH_SOCK").is_none()
        {
            env.push(format!("SSH_AUTH_SOCK={socket}"));
        }
        if let Some(server) = &self.options.caps {
            if server.supports(Cap::EXEC_META_SETSDEFAULTPATH).is_ok() {
                caps.insert(Cap::EXEC_META_SETSDEFAULTPATH);
            } else if context.env.value("PATH").is_none() {
                let path = if self.platform.os == "windows" { PATH_WINDOWS } else { PATH_UNIX };
                env.push(format!("PATH={path}"));
            }
        }

        for (present, cap) in [
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
        let text = |value: &Option<std::sync::Arc<str>>| value.as_deref().unwrap_or_default().to_owned();
        let meta = pb::Meta {
            args: exec.command.args.clone(),
            env,
            cwd: context.dir.to_string(),
            user: text(&context.user),
            proxy_env: extra.proxy.as_ref().map(|proxy| pb::ProxyEnv {
                http_proxy: proxy.http.clone(),
                https_proxy: proxy.https.clone(),
                ftp_proxy: proxy.ftp.clone(),
                no_proxy: proxy.no.clone(),
                all_proxy: proxy.all.clone(),
            }),
            extra_hosts: context
                .hosts
                .iter()
                .map(|(host, ip)| pb::HostIp { host: host.clone(), ip: host_address(*ip) })
                .collect(),
            hostname: text(&context.hostname),
            ulimit: context
                .ulimits
                .iter()
                .map(|limit| pb::Ulimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
                .collect(),
            cgroup_parent: text(&context.cgroup_parent),
            remove_mount_stubs_recursive: true,
            valid_exit_codes: extra.valid_exit_codes.clone(),
        };
        let network = match context.network {
            Network::Sandbox => pb::NetMode::Unset,
            Network::Host => pb::NetMode::Host,
            Network::None => pb::NetMode::None,
        };
        let security = match context.security {
            Security::Sandbox => pb::SecurityMode::Sandbox,
            Security::Insecure => pb::SecurityMode::Insecure,
        };
        let devices = extra.devices.iter();
        Ok(pb::op::Op::Exec(pb::ExecOp {
            meta: Some(meta),
            mounts,
            network: network.into(),
            security: security.into(),
            secretenv: secret_env,
            cdi_devices: devices
                .map(|device| pb::CdiDevice { name: device.name.clone(), optional: device.optional })
                .collect(),
        }))
    }
}

fn mount(vertex: &Vertex, point: &MountPoint, input: i64, caps: &mut Caps) -> Result<pb::Mount, Error> {
    let mut out = pb::Mount {
        input,
        dest: point.dest.to_string(),
        output: match point.output {
            Output::Index(index) => i64::from(index),
            Output::Source | Output::Nothing(_) => -1,
        },
        ..pb::Mount::default()
    };
    let Some(options) = &point.options else {
        if point.source.is_some() {
            caps.insert(Cap::EXEC_MOUNT_BIND);
        }
        return Ok(out);
    };
    out.readonly = options.readonly;
    out.selector.clone_from(&options.selector);
    if !options.selector.is_empty() {
        caps.insert(Cap::EXEC_MOUNT_SELECTOR);
    }
    match &options.kind {
        CustomKind::Cache { id, .. } if id.is_empty() => {
            return Err(fail(vertex, ErrorKind::CacheWithoutId { dest: point.dest.to_string() }));
        }
        CustomKind::Cache { id, sharing } => {
            let sharing = match sharing {
                Sharing::Shared => pb::CacheSharingOpt::Shared,
                Sharing::Private => pb::CacheSharingOpt::Private,
                Sharing::Locked => pb::CacheSharingOpt::Locked,
            };
            out.mount_type = pb::MountType::Cache.into();
            out.cache_opt = Some(pb::CacheOpt { id: id.clone(), sharing: sharing.into() });
            caps.insert(Cap::EXEC_MOUNT_CACHE);
            caps.insert(Cap::EXEC_MOUNT_CACHE_SHARING);
        }
        CustomKind::Tmpfs { size } => {
            if point.source.is_some() {
                return Err(fail(vertex, ErrorKind::TmpfsWithSource { dest: point.dest.to_string() }));
            }
            out.mount_type = pb::MountType::Tmpfs.into();
            out.tmpfs_opt = Some(pb::TmpfsOpt { size: *size });
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
    let content_cache = match options.content_cache {
        ContentCache::Default => pb::MountContentCache::Default,
        ContentCache::On => pb::MountContentCache::On,
        ContentCache::Off => pb::MountContentCache::Off,
    };
    out.content_cache = content_cache.into();
    if options.content_cache != ContentCache::Default {
        caps.insert(Cap::EXEC_MOUNT_CACHE_CONTENT);
    }
    Ok(out)
}
