#![no_main]

#[allow(dead_code)]
#[path = "../../checks/dockerfile.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::dockerfile_to_llb(data));
