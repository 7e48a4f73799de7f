#![no_main]

#[allow(dead_code)]
#[path = "../../checks/gateway.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::gateway_request(data));
