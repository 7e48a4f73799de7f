//! Merge, diff, passthrough, build; metadata, source maps, states.

use buildkit_llb::{
    BuildOp, Definition, Image, Passthrough, Platform, Position, Range, Rm, SourceMap, State, diff, merge,
    scratch,
};

use super::{alpine, busybox, check, options, recorded};

fn one() -> State {
    scratch().mkfile("/1", 0o644, "1")
}

fn two() -> State {
    scratch().mkfile("/2", 0o644, "2")
}

#[test]
fn e29_a_merge_keeps_repetitions_and_drops_scratch() {
    let one = one();
    check("E29", &merge([alpine(), scratch(), one.clone(), two(), one]));
    // Nothing, or one thing, is not merged at all.
    assert!(merge([scratch(), scratch()]).is_scratch());
    check("E02", &merge([scratch(), alpine()]));
}

#[test]
fn e30_a_diff() {
    check("E30", &diff(alpine(), alpine().mkfile("/2", 0o644, "2")));
    assert!(diff(scratch(), scratch()).is_scratch());
    check("E02", &diff(scratch(), alpine()));
}

#[test]
fn e31_a_diff_to_nothing() {
    check("E31", &diff(alpine(), scratch()));
}

#[test]
fn e32_a_state_that_needs_others() {
    check("E32", &alpine().requires("p1", [one(), two()]));
    check("E02", &alpine().requires("p1", [] as [State; 0]));
}

#[test]
fn e32b_a_passthrough_with_two_outputs() {
    let passthrough = Passthrough::new("p2").hand_on(one()).dependency(two()).hand_on(scratch());
    let outputs = passthrough.hand_on(alpine()).outputs();
    assert_eq!(outputs.len(), 2);
    check("E32b", &outputs[1]);
}

#[test]
fn e33_building_what_a_file_describes() {
    let file = scratch().mkfile("/x.llb", 0o644, "x");
    check("E33", &BuildOp::new(&file).filename("x.llb").into());
}

#[test]
fn e34_metadata() {
    let image = Image::new("alpine").ignore_cache().name("nm").export_cache(true);
    let image = State::from(image.progress_group("g", "grp", true));
    let definition = check("E34", &image.run(["x"]).export_cache(false).root());
    let ops: Vec<_> = definition.ops().collect();
    let metadata = ops[0].metadata();
    assert!(metadata.ignore_cache && metadata.export_cache == Some(true));
    assert_eq!(metadata.description["llb.customname"], "nm");
    let group = metadata.progress_group.as_ref().unwrap();
    assert_eq!((group.id.as_str(), group.name.as_str(), group.weak), ("g", "grp", true));
    assert_eq!(ops[1].metadata().export_cache, Some(false));
}

#[test]
fn e35_source_maps() {
    let map = SourceMap::new("Dockerfile", "Dockerfile", "FROM alpine\nRUN x\n");
    let line = |line| {
        let (start, end) = (Position { line, character: 0 }, Position { line, character: 5 });
        map.location([Range { start, end }])
    };
    let image = State::from(Image::new("alpine").location(line(1)));
    let definition = check("E35", &image.run(["x"]).location(line(2)).root());
    let lines: Vec<Vec<i32>> = definition
        .ops()
        .map(|op| {
            op.locations().flat_map(|(_, ranges)| ranges.iter().map(|range| range.start.line)).collect()
        })
        .collect();
    assert_eq!(lines, [vec![1], vec![2], vec![]]);
    assert_eq!(definition.source_maps().len(), 1);
    let source = definition.to_pb().source.unwrap();
    assert_eq!(source.locations.len(), 2, "the last op has no place");
    assert_eq!(source.infos[0].data, map.data());
    if let Some(programs) = recorded() {
        let theirs = &programs["E35"]["source"];
        let recorded = theirs["locations"].as_object().unwrap();
        for (digest, locations) in &source.locations {
            let range = &locations.locations[0].ranges[0];
            let recorded = &recorded[digest]["locations"][0]["ranges"][0];
            assert_eq!(recorded["start"]["line"], range.start.unwrap().line);
            assert_eq!(recorded["end"]["character"], range.end.unwrap().character);
        }
        assert_eq!(theirs["infos"][0]["language"], source.infos[0].language.as_str());
    }
}

#[test]
fn e38_a_tree_that_runs_as_another() {
    let base = alpine().dir("/d").env("A", "1");
    check("E38", &busybox().env("Z", "9").reset(&base).run(["x"]).root());
}

#[test]
fn e39_a_reusable_step() {
    let state = alpine().dir("/d").with(|state| state.env("Q", "1").dir("r"));
    check("E39", &state.run(["x"]).root());
}

fn uncached() -> Definition {
    check("E41", &alpine().run(["x"]).ignore_cache().root())
}

#[test]
fn e41_a_process_that_always_runs() {
    uncached();
}

#[test]
fn e42_building_on_a_definition_that_was_read() {
    let read = Definition::from_bytes(uncached().to_bytes()).unwrap();
    let state = read.to_state().unwrap();
    assert_eq!(state.context().platform(), Some(&Platform::LINUX_AMD64));
    let definition = check("E42", &state.run(["y"]).root());
    assert!(definition.ops().nth(1).unwrap().metadata().ignore_cache);
}

#[test]
fn e50_a_tree_of_a_platform_takes_the_other_directory() {
    let base = alpine().dir("/d").env("A", "1");
    let image = State::from(Image::new("busybox").platform(Platform::LINUX_AMD64)).env("Z", "9");
    check("E50", &image.reset(&base).run(["x"]).root());
}

#[test]
fn e53_a_merge_runs_as_its_first_input() {
    check("E53", &merge([alpine().dir("/q").env("A", "1"), busybox()]).run(["x"]).root());
}

#[test]
fn e54_a_diff_runs_as_its_lower_side() {
    check("E54", &diff(alpine().dir("/q"), busybox().dir("/r")).run(["x"]).root());
}

#[test]
fn digests_do_not_depend_on_what_was_built_before() {
    let options = options();
    let before = merge([alpine(), one()]).marshal(&options).unwrap();
    let _other = alpine().file(Rm::new("/x")).marshal(&options).unwrap();
    let after = std::thread::spawn(|| merge([alpine(), one()])).join().unwrap().marshal(&options).unwrap();
    assert_eq!(before, after);
}
