#![no_main]

#[allow(dead_code)]
#[path = "../../checks/engine.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::hijack_conn(data));
