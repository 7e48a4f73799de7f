#![no_main]

#[path = "../../checks/layout.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::oci_manifest(data));
