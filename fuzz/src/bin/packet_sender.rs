#![no_main]

#[allow(dead_code)]
#[path = "../../checks/transfer.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::packet_sender(data));
