#![no_main]

#[allow(dead_code)]
#[path = "../../checks/llb.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::image_ref(data));
