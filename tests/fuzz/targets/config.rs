#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::in_time(targets::config, bytes));
