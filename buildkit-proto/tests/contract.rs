//! The whole contract is there: every service with its calls, every message with its field numbers. What is
//! listed here was taken from the protocol's description, not from the `.proto` files.

#![allow(clippy::unwrap_used)] // a failed step is a failed test

use std::collections::BTreeMap;
use std::path::Path;

use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Services and their calls; `<` streams from the client, `>` from the server.
const SERVICES: &[(&str, &str)] = &[
    (
        "moby.buildkit.v1.Control",
        "DiskUsage Info ListWorkers ListenBuildHistory> Prune> Session<> Solve Status> UpdateBuildHistory",
    ),
    (
        "moby.buildkit.v1.frontend.LLBBridge",
        "Evaluate ExecProcess<> Inputs NewContainer Ping ReadDir ReadDirContainer ReadFile ReadFileContainer \
         ReleaseContainer ResolveImageConfig ResolveSourceMeta Return Solve StatFile StatFileContainer Warn",
    ),
    ("moby.buildkit.secrets.v1.Secrets", "GetSecret"),
    ("moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier", "CheckPolicy"),
    ("moby.exporter.v1.Exporter", "FinalizeExport FindExporters"),
    ("moby.filesync.v1.Auth", "Credentials FetchToken GetTokenAuthority VerifyTokenAuthority"),
    ("moby.filesync.v1.FileSend", "DiffCopy<>"),
    ("moby.filesync.v1.FileSync", "DiffCopy<> TarStream<>"),
    ("moby.sshforward.v1.SSH", "CheckAgent ForwardAgent<>"),
    ("moby.upload.v1.Upload", "Pull<>"),
    (
        "containerd.services.content.v1.Content",
        "Abort Delete Info List> ListStatuses Read> Status Update Write<>",
    ),
    ("grpc.health.v1.Health", "Check List Watch>"),
    ("opentelemetry.proto.collector.trace.v1.TraceService", "Export"),
];

/// Messages and the numbers of their fields, package by package.
const MESSAGES: &[(&str, &[(&str, &str)])] = &[
    (
        "pb",
        &[
            ("Op", "1 2 3 4 5 6 7 8 10 11"),
            ("Input", "1 2"),
            ("Platform", "1 2 3 4 5"),
            ("WorkerConstraints", "1"),
            ("ExecOp", "1 2 3 4 5 6"),
            ("Meta", "1 2 3 4 5 6 7 9 10 11 12"),
            ("HostIP", "1 2"),
            ("Ulimit", "1 2 3"),
            ("SecretEnv", "1 2 3"),
            ("CDIDevice", "1 2"),
            ("Mount", "1 2 3 4 5 6 19 20 21 22 23 24"),
            ("TmpfsOpt", "1"),
            ("CacheOpt", "1 2"),
            ("SecretOpt", "1 2 3 4 5"),
            ("SSHOpt", "1 2 3 4 5"),
            ("SourceOp", "1 2"),
            ("BuildOp", "1 2 3 4"),
            ("BuildInput", "1"),
            ("FileOp", "2"),
            ("FileAction", "1 2 3 4 5 6 7 8"),
            ("FileActionCopy", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"),
            ("FileActionMkFile", "1 2 3 4 5"),
            ("FileActionMkDir", "1 2 3 4 5"),
            ("FileActionRm", "1 2 3"),
            ("FileActionSymlink", "1 2 3 4"),
            ("ChownOpt", "1 2"),
            ("UserOpt", "1 2"),
            ("NamedUserOpt", "1 2"),
            ("MergeOp", "1"),
            ("MergeInput", "1"),
            ("DiffOp", "1 2"),
            ("LowerDiffInput", "1"),
            ("UpperDiffInput", "1"),
            ("PassthroughOp", "1 2"),
            ("Definition", "1 2 3"),
            ("OpMetadata", "1 2 4 5 6 7"),
            ("ExportCache", "1"),
            ("ProgressGroup", "1 2 3"),
            ("LinuxResources", "1 2 3 4 5 6 7"),
            ("Source", "1 2"),
            ("Locations", "1"),
            ("Location", "1 2"),
            ("Range", "1 2"),
            ("Position", "1 2"),
            ("SourceInfo", "1 2 3 4"),
            ("ProxyEnv", "1 2 3 4 5"),
        ],
    ),
    (
        "moby.buildkit.v1",
        &[
            ("DiskUsageRequest", "1 2"),
            ("DiskUsageResponse", "1"),
            ("PruneRequest", "1 2 3 4 5 6"),
            ("UsageRecord", "1 2 3 4 5 6 7 8 9 10 11 12"),
            ("SolveRequest", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17"),
            ("SolveResponse", "1"),
            ("CacheOptions", "1 2 3 4 5"),
            ("CacheOptionsEntry", "1 2"),
            ("Exporter", "1 2"),
            ("StatusRequest", "1"),
            ("StatusResponse", "1 2 3 4"),
            ("Vertex", "1 2 3 4 5 6 7 8"),
            ("VertexStatus", "1 2 3 4 5 6 7 8"),
            ("VertexLog", "1 2 3 4"),
            ("VertexWarning", "1 2 3 4 5 6 7"),
            ("BytesMessage", "1"),
            ("ListWorkersRequest", "1"),
            ("ListWorkersResponse", "1"),
            ("InfoRequest", ""),
            ("InfoResponse", "1"),
            ("BuildHistoryRequest", "1 2 3 4 5"),
            ("BuildHistoryEvent", "1 2"),
            ("BuildHistoryRecord", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19"),
            ("UpdateBuildHistoryRequest", "1 2 3 4"),
            ("UpdateBuildHistoryResponse", ""),
            ("Descriptor", "1 2 3 5"),
            ("BuildResultInfo", "1 2 3"),
        ],
    ),
    (
        "moby.buildkit.v1.types",
        &[
            ("WorkerRecord", "1 2 3 4 5 6"),
            ("GCPolicy", "1 2 3 4 5 6"),
            ("BuildkitVersion", "1 2 3 4"),
            ("CDIDevice", "1 2 3 4"),
        ],
    ),
    (
        "moby.buildkit.v1.frontend",
        &[
            ("Result", "1 2 3 4 10 12"),
            ("RefMapDeprecated", "1"),
            ("Ref", "1 2"),
            ("RefMap", "1"),
            ("Attestations", "1"),
            ("Attestation", "1 2 3 4 5 6"),
            ("InTotoSubject", "1 2 3"),
            ("PongResponse", "1 2 3"),
            ("ResolveImageConfigRequest", "1 2 3 4 5 6 7 8"),
            ("ResolveImageConfigResponse", "1 2 3"),
            ("ResolveSourceMetaRequest", "1 2 3 4 5 6 7 8"),
            ("ResolveSourceMetaResponse", "1 2 3 4"),
            ("ResolveSourceGitRequest", "1"),
            ("ResolveSourceGitResponse", "1 2 3 4 5"),
            ("ResolveSourceImageRequest", "1 2 3"),
            ("ResolveSourceImageResponse", "1 2 3"),
            ("ResolveSourceHTTPRequest", "1"),
            ("ResolveSourceHTTPResponse", "1 2 3 4"),
            ("AttestationChain", "1 2 3 4 5"),
            ("Blob", "1 2"),
            ("ChecksumRequest", "1 2"),
            ("ChecksumResponse", "1 2"),
            ("SolveRequest", "1 2 3 5 6 10 11 12 13 14 15"),
            ("SolveResponse", "1 3"),
            ("CacheOptionsEntry", "1 2"),
            ("ReadFileRequest", "1 2 3 4"),
            ("FileRange", "1 2"),
            ("ReadFileResponse", "1"),
            ("ReadDirRequest", "1 2 3 4"),
            ("ReadDirResponse", "1"),
            ("StatFileRequest", "1 2 3"),
            ("StatFileResponse", "1"),
            ("EvaluateRequest", "1"),
            ("ReturnRequest", "1 2"),
            ("InputsResponse", "1"),
            ("NewContainerRequest", "1 2 3 4 5 6 7"),
            ("ReleaseContainerRequest", "1"),
            ("ExecMessage", "1 2 3 4 5 6 7 8"),
            ("InitMessage", "1 2 3 4 5 6"),
            ("FdMessage", "1 2 3"),
            ("ResizeMessage", "1 2"),
            ("SignalMessage", "1"),
            ("ExitMessage", "1 2"),
            ("WarnRequest", "1 2 3 4 5 6 7"),
            ("Descriptor", "1 2 3 5"),
        ],
    ),
    ("moby.buildkit.v1.apicaps", &[("APICap", "1 2 3 4 5 6")]),
    (
        "moby.buildkit.v1.sourcepolicy",
        &[
            ("Policy", "1 2"),
            ("Rule", "1 2 3"),
            ("Selector", "1 2 3"),
            ("AttrConstraint", "1 2 3"),
            ("Update", "1 2"),
        ],
    ),
    (
        "moby.buildkit.v1.sourcepolicy.policysession",
        &[
            ("CheckPolicyRequest", "1 2 3"),
            ("CheckPolicyResponse", "1 2"),
            ("DecisionResponse", "1 2 3"),
            ("DenyMessage", "1"),
        ],
    ),
    ("errdefs", &[("Vertex", "1"), ("Source", "1 2"), ("Frontend", "1 2"), ("Solve", "1 2 3 4 5 6")]),
    ("fsutil.types", &[("Packet", "1 2 3 4"), ("Stat", "1 2 3 4 5 6 7 8 9 10")]),
    (
        "moby.filesync.v1",
        &[
            ("BytesMessage", "1"),
            ("CredentialsRequest", "1"),
            ("CredentialsResponse", "1 2"),
            ("FetchTokenRequest", "1 2 3 4 5"),
            ("FetchTokenResponse", "1 2 3"),
            ("GetTokenAuthorityRequest", "1 2"),
            ("GetTokenAuthorityResponse", "1"),
            ("VerifyTokenAuthorityRequest", "1 2 3"),
            ("VerifyTokenAuthorityResponse", "1"),
        ],
    ),
    ("moby.buildkit.secrets.v1", &[("GetSecretRequest", "1 2"), ("GetSecretResponse", "1")]),
    ("moby.sshforward.v1", &[("CheckAgentRequest", "1"), ("CheckAgentResponse", ""), ("BytesMessage", "1")]),
    ("moby.upload.v1", &[("BytesMessage", "1")]),
    (
        "moby.exporter.v1",
        &[
            ("FindExportersRequest", "1 2"),
            ("FindExportersResponse", "1"),
            ("ExporterRequest", "1 2"),
            ("FinalizeExportRequest", "1"),
        ],
    ),
    (
        "containerd.services.content.v1",
        &[
            ("Info", "1 2 3 4 5"),
            ("Status", "1 2 3 4 5 6"),
            ("UpdateRequest", "1 2"),
            ("ReadContentRequest", "1 2 3"),
            ("ReadContentResponse", "1 2"),
            ("WriteContentRequest", "1 2 3 4 5 6 7"),
            ("WriteContentResponse", "1 2 3 4 5 6"),
        ],
    ),
    ("google.rpc", &[("Status", "1 2 3")]),
    ("grpc.health.v1", &[("HealthCheckRequest", "1"), ("HealthCheckResponse", "1")]),
];

fn pool() -> DescriptorPool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut files = Vec::new();
    for folder in ["buildkit", "external", "session"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            files.push(format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy()));
        }
    }
    let files = protox::compile(files, [root]).expect("the contract compiles");
    DescriptorPool::from_file_descriptor_set(files).expect("the contract is whole")
}

#[test]
fn every_service_has_its_calls() {
    let have: BTreeMap<String, String> = pool()
        .services()
        .map(|service| {
            let mut calls: Vec<String> = service
                .methods()
                .map(|call| {
                    let up = if call.is_client_streaming() { "<" } else { "" };
                    let down = if call.is_server_streaming() { ">" } else { "" };
                    format!("{}{up}{down}", call.name())
                })
                .collect();
            calls.sort();
            (service.full_name().to_owned(), calls.join(" "))
        })
        .collect();
    let want = SERVICES.iter().map(|(name, calls)| ((*name).to_owned(), (*calls).to_owned())).collect();
    assert_eq!(have, want);
}

fn numbers(message: &MessageDescriptor) -> String {
    let mut numbers: Vec<u32> = message.fields().map(|field| field.number()).collect();
    numbers.sort_unstable();
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_message_has_its_fields() {
    let pool = pool();
    let mut wrong = Vec::new();
    for (package, messages) in MESSAGES {
        for (name, want) in *messages {
            let name = format!("{package}.{name}");
            let have = pool.get_message_by_name(&name).map(|message| numbers(&message));
            if have.as_deref() != Some(*want) {
                wrong.push(format!("{name}: want {want}, have {have:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn paths_of_files_are_bytes() {
    let stat = pool().get_message_by_name("fsutil.types.Stat").expect("it is in the contract");
    for field in ["path", "linkname"] {
        let kind = stat.get_field_by_name(field).map(|field| field.kind());
        assert_eq!(kind, Some(prost_reflect::Kind::Bytes), "{field}");
    }
}
