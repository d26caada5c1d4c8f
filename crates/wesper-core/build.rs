//! Compiles the shim over intel-ipsec-mb if the feature `ipsec-mb` is on; else does nothing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "ipsec-mb")]
    ipsec_mb();
}

#[cfg(feature = "ipsec-mb")]
fn ipsec_mb() {
    println!("cargo::rerun-if-changed=ipsec-mb/shim.c");
    cc::Build::new()
        .file("ipsec-mb/shim.c")
        .opt_level(3)
        .warnings(true)
        .warnings_into_errors(true)
        .compile("wesper_imb");
    println!("cargo::rustc-link-lib=dylib=IPSec_MB");
}
