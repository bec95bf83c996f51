#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ingot::fuzzing::solve_any(bytes));
