//! The Kubernetes manifests beside this file are what the cluster's API takes, to the last field, and
//! what their Jobs pass is what this program takes.

use clap::Parser as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use crate::args::{Args, Command};

const MANIFESTS: &[(&str, &str)] = &[
    ("buildkitd.yaml", include_str!("kubernetes/buildkitd.yaml")),
    ("buildkitd-mtls.yaml", include_str!("kubernetes/buildkitd-mtls.yaml")),
    ("job.yaml", include_str!("kubernetes/job.yaml")),
    ("job-mtls.yaml", include_str!("kubernetes/job-mtls.yaml")),
];

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

/// Fails on a field that the API does not have: such a field is gone after reading and writing.
fn strict<T: serde::de::DeserializeOwned + serde::Serialize>(file: &str, document: &Value) -> T {
    let typed: T = serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{file}: {e}"));
    let again = serde_json::to_value(&typed).unwrap();
    assert_eq!(&again, document, "{file}: a field is lost or changed");
    typed
}

#[test]
fn every_field_is_one_that_kubernetes_knows() {
    let mut kinds = Vec::new();
    for (file, text) in MANIFESTS {
        for document in documents(text) {
            let kind = document["kind"].as_str().unwrap().to_owned();
            match kind.as_str() {
                "Deployment" => drop(strict::<Deployment>(file, &document)),
                "Service" => drop(strict::<Service>(file, &document)),
                "Job" => drop(strict::<Job>(file, &document)),
                other => panic!("{file}: {other}"),
            }
            kinds.push(kind);
        }
    }
    assert_eq!(kinds, ["Deployment", "Service", "Deployment", "Service", "Job", "Job"]);
}

#[test]
#[should_panic(expected = "a field is lost")]
fn an_unknown_field_is_noticed() {
    let text = MANIFESTS[0].1.replacen("replicas: 1", "replicas: 1\n  replicaz: 2", 1);
    strict::<Deployment>("changed", &documents(&text)[0]);
}

#[test]
fn what_the_jobs_pass_is_what_the_program_takes() {
    for (file, text) in &MANIFESTS[2..] {
        let job: Job = strict(file, &documents(text)[0]);
        let pod = job.spec.unwrap().template.spec.unwrap();
        let container = &pod.containers[0];
        let given = container.args.clone().unwrap();
        let args = Args::try_parse_from(std::iter::once("batch-job".to_owned()).chain(given)).unwrap();
        let Command::Build(build) = args.command;
        assert!(args.addr.unwrap().starts_with("tcp://buildkitd"), "{file}");
        assert!(build.deprecations().is_empty(), "{file}");
        let output = &build.outputs().unwrap()[0];
        assert_eq!((output.kind.as_str(), output.attrs["push"].as_str()), ("image", "true"));
        assert_eq!(build.locals()["context"].to_str(), Some("/context"));
        // The credentials are where DOCKER_CONFIG says.
        // A job that failed says why in the pod's status, one that succeeded its digest.
        assert_eq!(container.termination_message_policy.as_deref(), Some("FallbackToLogsOnError"));
        assert_eq!(build.digest_file.as_deref(), Some(std::path::Path::new("/dev/termination-log")));
        let env = container.env.as_ref().unwrap();
        let config = env.iter().find(|var| var.name == "DOCKER_CONFIG").unwrap().value.as_deref();
        let mounts = container.volume_mounts.as_ref().unwrap();
        let mount = mounts.iter().find(|mount| mount.name == "docker").unwrap();
        assert_eq!(Some(mount.mount_path.as_str()), config);
        let volumes = pod.volumes.as_ref().unwrap();
        let secret = volumes.iter().find(|volume| volume.name == "docker").unwrap().secret.as_ref().unwrap();
        assert_eq!(secret.secret_name.as_deref(), Some("dockerconfig"));
    }
}

#[test]
fn the_job_finds_the_service_and_the_service_the_daemon() {
    for (daemon, job) in [(0, 2), (1, 3)] {
        let both = documents(MANIFESTS[daemon].1);
        let deployment: Deployment = strict(MANIFESTS[daemon].0, &both[0]);
        let service: Service = strict(MANIFESTS[daemon].0, &both[1]);
        let labels = deployment.spec.unwrap().template.metadata.unwrap().labels;
        let service_spec = service.spec.unwrap();
        assert_eq!(service_spec.selector, labels);
        let port = service_spec.ports.unwrap()[0].port;
        let address = format!("tcp://{}:{port}", service.metadata.name.unwrap());
        assert!(MANIFESTS[job].1.contains(&address), "{address}");
    }
}
