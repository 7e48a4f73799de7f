//! Ops encode to the bytes BuildKit hashes.

use std::path::Path;

use buildkit_proto::canonical::{Writer, encode_definition, encode_op};
use buildkit_proto::pb;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use sha2::{Digest as _, Sha256};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, b| text + &format!("{b:02x}"))
}

fn descriptors() -> DescriptorPool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = protox::compile(["buildkit/ops.proto"], [root]).expect("a message of the contract");
    DescriptorPool::from_file_descriptor_set(files).expect("a message of the contract")
}

/// Reads proto3 JSON; both JSON names and the contract's own names are taken.
fn op_from_json(pool: &DescriptorPool, json: &serde_json::Value) -> pb::Op {
    let descriptor = pool.get_message_by_name("pb.Op").expect("a message of the contract");
    let message = DynamicMessage::deserialize(descriptor, json).expect("a message of the contract");
    pb::Op::decode(&message.encode_to_vec()[..]).expect("a message of the contract")
}

#[test]
fn recorded_ops_encode_to_their_bytes_and_digests() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/llb-vectors.json");
    let Ok(text) = std::fs::read(&path) else {
        eprintln!("SKIPPED: the recorded programs are not at {}", path.display());
        return;
    };
    let pool = descriptors();
    let programs: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let (mut ops, mut wrong) = (0, Vec::new());
    for program in &programs {
        for entry in program["ops"].as_array().into_iter().flatten() {
            let op = op_from_json(&pool, &entry["op"]);
            let bytes = encode_op(&op);
            ops += 1;
            let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
            if entry["hex"] != hex(&bytes) || entry["digest"] != digest {
                wrong.push(format!("{}: want {} have {}", program["id"], entry["hex"], hex(&bytes)));
            }
            // What prost reads from the bytes is what they were made of.
            assert_eq!(pb::Op::decode(&bytes[..]).unwrap(), op);
        }
    }
    eprintln!("{} of {ops} ops of {} programs match", ops - wrong.len(), programs.len());
    assert!(ops > 0 && wrong.is_empty(), "{}", wrong.join("\n"));
}

fn source(identifier: &str, attrs: &[(&str, &str)]) -> pb::op::Op {
    pb::op::Op::Source(pb::SourceOp {
        identifier: identifier.into(),
        attrs: attrs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
    })
}

fn op(op: pb::op::Op) -> pb::Op {
    pb::Op { op: Some(op), constraints: Some(pb::WorkerConstraints::default()), ..Default::default() }
}

#[test]
fn each_rule_that_differs_from_prost_holds() {
    let amd64 = pb::Platform { architecture: "amd64".into(), os: "linux".into(), ..Default::default() };
    let with_platform = |mut op: pb::Op| {
        op.platform = Some(amd64.clone());
        op
    };
    let build = pb::BuildOp {
        builder: -1,
        inputs: [("buildkit.llb.definition".into(), pb::BuildInput { input: 0 })].into(),
        def: None,
        attrs: [("llbbuild.filename".into(), "x.llb".into())].into(),
    };
    let passthrough = pb::PassthroughOp { id: "p1".into(), outputs: vec![0] };
    let merge = pb::MergeOp { inputs: (0..4).map(|input| pb::MergeInput { input }).collect() };
    let chown =
        pb::ChownOpt { user: Some(pb::UserOpt { user: Some(pb::user_opt::User::ById(0)) }), group: None };
    let mkdir = pb::FileAction {
        action: Some(pb::file_action::Action::Mkdir(pb::FileActionMkDir {
            owner: Some(chown),
            ..Default::default()
        })),
        ..Default::default()
    };
    let cases: Vec<(&str, pb::Op, &str)> = vec![
        (
            "the op comes after platform and constraints",
            with_platform(op(source("docker-image://docker.io/library/alpine:latest", &[]))),
            "520e0a05616d64363412056c696e75785a001a300a2e646f636b65722d696d6167653a2f2f646f636b65722e696f2f6c6962726172792f616c70696e653a6c6174657374",
        ),
        (
            "map values are written even when empty",
            with_platform(op(source("docker-image://x/y:z", &[("a", "b"), ("k", "")]))),
            "520e0a05616d64363412056c696e75785a001a250a14646f636b65722d696d6167653a2f2f782f793a7a12060a016112016212050a016b1200",
        ),
        (
            "a build input of zero is an empty message",
            with_platform(op(pb::op::Op::Build(build))),
            "520e0a05616d64363412056c696e75785a002a4408ffffffffffffffffff01121b0a176275696c646b69742e6c6c622e646566696e6974696f6e1200221a0a116c6c626275696c642e66696c656e616d651205782e6c6c62",
        ),
        ("outputs are packed", op(pb::op::Op::Passthrough(passthrough)), "5a0042070a027031120100"),
        ("a merge input of zero stays", op(pb::op::Op::Merge(merge)), "5a00320e0a000a0208010a0208020a020803"),
        (
            "a user id of zero stays",
            op(pb::op::Op::File(pb::FileOp { actions: vec![mkdir] })),
            "5a00220a1208320622040a021000",
        ),
        ("nothing is nothing", pb::Op::default(), ""),
    ];
    for (name, op, want) in cases {
        assert_eq!(hex(&encode_op(&op)), want, "{name}");
    }
}

#[test]
fn definitions_encode_without_loss_and_the_same_way_each_time() {
    let metadata = pb::OpMetadata {
        ignore_cache: true,
        description: [("a".into(), String::new())].into(),
        export_cache: Some(pb::ExportCache { value: false }),
        caps: [("x".into(), false), ("y".into(), true)].into(),
        progress_group: Some(pb::ProgressGroup { id: "g".into(), ..Default::default() }),
        linux_resources: Some(pb::LinuxResources { memory: 7, cpu_quota: -1, ..Default::default() }),
    };
    let info = pb::SourceInfo {
        filename: "f".into(),
        data: "d".into(),
        definition: Some(pb::Definition { def: vec!["x".into()], ..Default::default() }),
        language: "l".into(),
    };
    let locations = pb::Locations {
        locations: vec![pb::Location { source_index: -1, ranges: vec![pb::Range::default()] }],
    };
    let definition = pb::Definition {
        def: vec![bytes::Bytes::new(), "op".into()],
        metadata: [("m".into(), metadata), (String::new(), pb::OpMetadata::default())].into(),
        source: Some(pb::Source { locations: [("l".into(), locations)].into(), infos: vec![info] }),
    };
    let bytes = encode_definition(&definition);
    assert_eq!(pb::Definition::decode(&bytes[..]).unwrap(), definition);
}

/// A length takes as many bytes as it needs, at every depth.
#[test]
fn lengths_around_each_width_are_written_as_prost_does() {
    for len in [0, 1, 125, 126, 127, 128, 129, 16_381, 16_383, 16_384, 2_097_151, 2_097_152] {
        let data: bytes::Bytes = vec![7; len].into();
        let mkfile = pb::FileActionMkFile { data: data.clone(), ..Default::default() };
        let action = Some(pb::file_action::Action::Mkfile(mkfile));
        let file = pb::FileOp { actions: vec![pb::FileAction { action, ..Default::default() }] };
        let mut out = Writer::new();
        out.message(2, |out| out.message(5, |out| out.bytes(3, &data)));
        assert_eq!(out.as_bytes(), file.encode_to_vec(), "{len}");
    }
}

#[test]
fn a_message_written_field_by_field_is_the_message() {
    let meta = pb::Meta {
        args: vec!["a".into(), String::new()],
        env: vec!["K=v".into()],
        cwd: "/".into(),
        ulimit: vec![pb::Ulimit { name: "n".into(), soft: -1, hard: i64::MAX }],
        remove_mount_stubs_recursive: true,
        valid_exit_codes: vec![0, -1, 300],
        ..Default::default()
    };
    let mut out = Writer::new();
    out.item(9, "of the message before");
    out.clear();
    let mut args = Writer::new();
    args.items(1, &meta.args);
    out.fields(args.as_bytes());
    out.joined(2, ["K", "=", "v"]);
    out.bytes(3, &meta.cwd);
    out.bytes(4, &meta.user);
    out.message(9, |out| {
        out.bytes(1, "n");
        out.int(2, -1);
        out.uint(3, i64::MAX.cast_unsigned());
    });
    out.flag(11, true);
    out.flag(13, false);
    out.packed(12, meta.valid_exit_codes.iter().copied());
    out.packed(14, [0_i32; 0]);
    assert_eq!(out.as_bytes(), meta.encode_to_vec());
    let mut out = Writer::new();
    out.choice(2, 0_u32);
    out.int(3, 0);
    assert_eq!(out.into_bytes(), [0x10, 0]);
}
