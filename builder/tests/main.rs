//! Tests of the `ingot` command from outside: what it prints, how it ends, what it leaves behind.

mod archive;
mod context;
