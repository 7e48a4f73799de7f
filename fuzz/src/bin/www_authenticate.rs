#![no_main]

#[allow(dead_code)]
#[path = "../../checks/client.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::www_authenticate(data));
