//! The failed step as it was: its container and its process, to look around.

use buildkit_proto::pb;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::container::{ContainerMount, NewContainer};
use crate::detail::SolveFailure;
use crate::error::{Code, Error, Result};
use crate::output::PlatformJson;
use crate::process::Process;

impl SolveFailure {
    /// A container with the mounts of the failed process as it left them, on
    /// its network and with its hosts.
    ///
    /// ```
    /// # async fn look(gateway: &buildkit_frontend::Gateway, error: &buildkit_frontend::Error)
    /// # -> buildkit_frontend::Result<()> {
    /// use buildkit_frontend::Process;
    ///
    /// if let Some(failure) = error.solve_failure() {
    ///     let container = gateway.container(failure.container()?).await?;
    ///     let left = container.run(Process::new(["find", "/", "-newer", "/etc/passwd"])).await?;
    ///     println!("{}", String::from_utf8_lossy(&left.stdout));
    ///     // The same once more, with all that it prints.
    ///     let again = gateway.container(failure.container()?).await?.run(failure.process()?).await?;
    ///     println!("{}", String::from_utf8_lossy(&again.stderr));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When what failed was no process.
    pub fn container(&self) -> Result<NewContainer> {
        let exec = self.exec()?;
        let mut container = NewContainer::without_root();
        for (index, mount) in exec.mounts.into_iter().enumerate() {
            let id = self.mounts.get(index).cloned().unwrap_or_default();
            container = container.mount(ContainerMount::from_wire(mount.into_wire(id)));
        }
        for host in exec.meta.hosts {
            let ip = host.ip.parse().map_err(|error| {
                Error::context(format!("the host {} of the failed process is damaged", host.name), error)
            })?;
            container = container.host(host.name, ip);
        }
        if !exec.meta.hostname.is_empty() {
            container = container.hostname(exec.meta.hostname);
        }
        let network = pb::NetMode::from_str_name(&exec.network).unwrap_or_default();
        container = container.network(network);
        if let Some(platform) = self.op.get("platform") {
            let platform: PlatformJson = read(platform)?;
            container = container.platform(&platform.into());
        }
        Ok(container)
    }

    /// The failed process: its arguments, environment, directory, user and
    /// privileges.
    ///
    /// # Errors
    /// When what failed was no process.
    pub fn process(&self) -> Result<Process> {
        let exec = self.exec()?;
        let meta = pb::Meta {
            args: exec.meta.args,
            env: exec.meta.env,
            cwd: Some(exec.meta.cwd).filter(|cwd| !cwd.is_empty()).unwrap_or_else(|| "/".into()),
            user: exec.meta.user,
            ..pb::Meta::default()
        };
        let mut process = Process::from_meta(meta);
        if exec.security == "INSECURE" {
            process = process.insecure();
        }
        for secret in exec.secrets {
            process = if secret.optional {
                process.optional_secret_env(secret.name, secret.id)
            } else {
                process.secret_env(secret.name, secret.id)
            };
        }
        Ok(process)
    }

    /// Program and arguments of the failed process; empty where what failed
    /// was none.
    pub fn args(&self) -> Vec<String> {
        self.exec().map(|exec| exec.meta.args).unwrap_or_default()
    }

    fn exec(&self) -> Result<Exec> {
        let exec = self.op.get("exec").ok_or_else(|| {
            Error::with_code(Code::FailedPrecondition, "the step that failed ran no process")
        })?;
        read(exec)
    }
}

fn read<T: for<'de> Deserialize<'de>>(json: &Value) -> Result<T> {
    T::deserialize(json).map_err(|error| Error::context("the step that failed is damaged", error))
}

// Protobuf's JSON: values that are zero are left out, enums are names, 64-bit numbers are texts.

#[derive(Deserialize, Default)]
#[serde(default)]
struct Exec {
    meta: Meta,
    mounts: Vec<Mount>,
    network: String,
    security: String,
    #[serde(rename = "secretenv")]
    secrets: Vec<SecretEnv>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Meta {
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    user: String,
    #[serde(rename = "extraHosts")]
    hosts: Vec<Host>,
    hostname: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Host {
    #[serde(rename = "Host")]
    name: String,
    #[serde(rename = "IP")]
    ip: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SecretEnv {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    optional: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Mount {
    selector: String,
    dest: String,
    readonly: bool,
    #[serde(rename = "mountType")]
    kind: String,
    #[serde(rename = "TmpfsOpt")]
    tmpfs: Option<Tmpfs>,
    #[serde(rename = "cacheOpt")]
    cache: Option<Cache>,
    #[serde(rename = "secretOpt")]
    secret: Option<Access>,
    #[serde(rename = "SSHOpt")]
    ssh: Option<Access>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tmpfs {
    #[serde(deserialize_with = "number")]
    size: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cache {
    #[serde(rename = "ID")]
    id: String,
    sharing: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Access {
    #[serde(rename = "ID")]
    id: String,
    uid: u32,
    gid: u32,
    mode: u32,
    optional: bool,
}

impl Mount {
    fn into_wire(self, result: String) -> pb::Mount {
        let kind = pb::MountType::from_str_name(&self.kind).unwrap_or_default();
        let access = |a: Access| (a.id, a.uid, a.gid, a.mode, a.optional);
        pb::Mount {
            result_id: if kind == pb::MountType::Bind { result } else { String::new() },
            selector: self.selector,
            dest: self.dest,
            readonly: self.readonly,
            mount_type: kind.into(),
            tmpfs_opt: self.tmpfs.map(|tmpfs| pb::TmpfsOpt { size: tmpfs.size }),
            cache_opt: self.cache.map(|cache| pb::CacheOpt {
                id: cache.id,
                sharing: pb::CacheSharingOpt::from_str_name(&cache.sharing).unwrap_or_default().into(),
            }),
            secret_opt: self.secret.map(access).map(|(id, uid, gid, mode, optional)| pb::SecretOpt {
                id,
                uid,
                gid,
                mode,
                optional,
            }),
            ssh_opt: self.ssh.map(access).map(|(id, uid, gid, mode, optional)| pb::SshOpt {
                id,
                uid,
                gid,
                mode,
                optional,
            }),
            ..pb::Mount::default()
        }
    }
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<i64, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().unwrap_or(0),
        value => value.as_i64().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(op: &str) -> SolveFailure {
        SolveFailure {
            mounts: vec!["m0".into(), "m1".into(), String::new()],
            op: serde_json::from_str(op).unwrap(),
            ..SolveFailure::default()
        }
    }

    #[test]
    fn a_failed_process_is_made_again_as_it_was() {
        let failure = failure(
            r#"{"exec":{"meta":{"args":["sh","-c","exit 9"],"env":["A=b"],"cwd":"/w","user":"app",
                "extraHosts":[{"Host":"db","IP":"10.0.0.1"}],"hostname":"h"},
                "mounts":[{"dest":"/"},{"input":"1","selector":"/sub","dest":"/src","output":"-1","readonly":true},
                {"input":"-1","dest":"/c","output":"-1","mountType":"CACHE","cacheOpt":{"ID":"c","sharing":"LOCKED"}},
                {"input":"-1","dest":"/t","mountType":"TMPFS","TmpfsOpt":{"size":"4096"}},
                {"input":"-1","dest":"/s","mountType":"SECRET","secretOpt":{"ID":"s","mode":256,"optional":true}}],
                "network":"NONE","security":"INSECURE","secretenv":[{"ID":"t","name":"TOKEN"},{"ID":"o","name":"OTHER","optional":true}]},
                "platform":{"Architecture":"arm64","OS":"linux"}}"#,
        );
        let container = failure.container().unwrap().into_request();
        let mounts: Vec<_> =
            container.mounts.iter().map(|m| (m.dest.as_str(), m.result_id.as_str(), m.readonly)).collect();
        assert_eq!(
            mounts,
            [
                ("/", "m0", false),
                ("/src", "m1", true),
                ("/c", "", false),
                ("/t", "", false),
                ("/s", "", false)
            ]
        );
        assert_eq!(container.mounts[1].selector, "/sub");
        assert_eq!(container.mounts[2].cache_opt.as_ref().unwrap().sharing(), pb::CacheSharingOpt::Locked);
        assert_eq!(container.mounts[3].tmpfs_opt.unwrap().size, 4096);
        assert!(container.mounts[4].secret_opt.as_ref().unwrap().optional);
        assert_eq!(container.network(), pb::NetMode::None);
        assert_eq!((container.hostname.as_str(), container.extra_hosts[0].ip.as_str()), ("h", "10.0.0.1"));
        assert_eq!(container.platform.unwrap().architecture, "arm64");

        let (init, meta) = failure.process().unwrap().into_parts();
        assert_eq!((meta.args.len(), meta.cwd.as_str(), meta.user.as_str()), (3, "/w", "app"));
        assert_eq!(init.security(), pb::SecurityMode::Insecure);
        let secrets: Vec<_> = init.secretenv.iter().map(|secret| (&*secret.name, secret.optional)).collect();
        assert_eq!(secrets, [("TOKEN", false), ("OTHER", true)]);
    }

    #[test]
    fn only_processes_are_made_again() {
        let error = failure(r#"{"file":{"actions":[]}}"#).container().unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        for damaged in [
            "null",
            "[]",
            r#"{"exec":7}"#,
            r#"{"exec":{"meta":{"args":7}}}"#,
            r#"{"exec":{"mounts":[{"mountType":7}]}}"#,
            r#"{"exec":{"mounts":[{"cacheOpt":"x"}]}}"#,
        ] {
            let failure = failure(damaged);
            assert!(failure.process().is_err() && failure.container().is_err(), "{damaged}");
            assert!(failure.args().is_empty(), "{damaged}");
        }
    }
}
