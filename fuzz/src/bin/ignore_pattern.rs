#![no_main]

#[allow(dead_code)]
#[path = "../../checks/trees.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::ignore_pattern(data));
