use std::fs;
use std::io::Write;

use proptest::prelude::*;

use super::*;

const UNAME: &str = "6.1.0-test";

/// A root with a few modules, in every compression.
fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("usr/lib/modules").join(UNAME);
    let elf = |name: &str| format!("\x7fELF {name}").into_bytes();
    let write = |path: &str, bytes: &[u8]| {
        let path = base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&elf("dm-verity")).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&elf("dm-mod")).unwrap();
    write("kernel/drivers/md/dm-verity.ko.xz", &xz.finish().unwrap());
    write("kernel/drivers/md/dm-mod.ko.gz", &gz.finish().unwrap());
    write("kernel/fs/erofs/erofs.ko.zst", &zstd::encode_all(&elf("erofs")[..], 1).unwrap());
    write("kernel/crypto/crc32c_generic.ko", &elf("crc32c_generic"));
    write("kernel/drivers/nvme/host/nvme.ko", &elf("nvme"));
    write("kernel/drivers/nvme/host/nvme-core.ko", &elf("nvme-core"));
    write("kernel/drivers/broken.ko", b"no elf");
    write(
        "modules.dep",
        b"kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-mod.ko.gz\n\
          kernel/drivers/md/dm-mod.ko.gz:\nkernel/fs/erofs/erofs.ko.zst:\nkernel/crypto/crc32c_generic.ko:\n\
          kernel/drivers/nvme/host/nvme.ko: kernel/drivers/nvme/host/nvme-core.ko\n\
          kernel/drivers/nvme/host/nvme-core.ko:\nkernel/drivers/broken.ko:\n",
    );
    write("modules.alias", b"# c\nalias pci:v*d* nvme\nalias crypto-crc32c crc32c_generic\nalias fs-erofs erofs\n");
    write("modules.softdep", b"softdep erofs pre: crypto-crc32c missing\n");
    write("modules.builtin", b"kernel/drivers/virtio/virtio_pci.ko\nkernel/fs/ext4/ext4.ko\n");
    dir
}

fn wanted(names: &[&str]) -> Wanted {
    Wanted::default().and(names.iter().copied())
}

#[test]
fn dependencies_and_soft_dependencies_come_along() {
    let root = root();
    let selection = select(root.path(), UNAME, &wanted(&["dm_verity", "erofs", "ext4"])).unwrap();
    let paths: Vec<&str> = selection.modules.keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "kernel/crypto/crc32c_generic.ko",
            "kernel/drivers/md/dm-mod.ko",
            "kernel/drivers/md/dm-verity.ko",
            "kernel/fs/erofs/erofs.ko"
        ]
    );
    assert_eq!(selection.modules["kernel/drivers/md/dm-verity.ko"], b"\x7fELF dm-verity");
    assert_eq!(selection.modules["kernel/fs/erofs/erofs.ko"], b"\x7fELF erofs");
    assert_eq!(
        selection.tables["modules.dep"],
        "kernel/crypto/crc32c_generic.ko:\nkernel/drivers/md/dm-mod.ko:\n\
         kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-mod.ko\nkernel/fs/erofs/erofs.ko:\n"
    );
    assert_eq!(selection.tables["modules.alias"], "alias crypto-crc32c crc32c_generic\nalias fs-erofs erofs\n");
    assert_eq!(selection.tables["modules.softdep"], "softdep erofs pre: crc32c_generic\n");
    assert!(selection.tables["modules.builtin"].contains("virtio_pci"));
    assert_eq!(selection.early, ["crc32c_generic", "dm_mod", "dm_verity", "erofs"]);
}

#[test]
fn globs_name_paths_below_kernel() {
    let root = root();
    let count = |glob: &str| select(root.path(), UNAME, &wanted(&[glob])).map(|s| s.modules.len());
    assert_eq!(count("drivers/nvme/host/*").unwrap(), 2);
    assert_eq!(count("drivers/nvme/host/nvme").unwrap(), 2);
    assert_eq!(count("drivers/virtio/*").unwrap(), 0);
    assert!(matches!(count("drivers/nothing/*"), Err(ModulesError::NoMatch { .. })));
    let text = count("drivers/nvme/host/nvmee").unwrap_err().to_string();
    assert!(text.contains("did you mean nvme"), "{text}");
}

#[test]
fn an_unknown_name_gets_near_ones() {
    let root = root();
    let error = select(root.path(), UNAME, &wanted(&["dm-veryti"])).unwrap_err();
    assert!(error.to_string().contains("no module `dm-veryti`; did you mean dm_verity"), "{error}");
    let optional = Wanted { optional: ["nothing".to_owned()].into(), ..Wanted::default() };
    assert!(select(root.path(), UNAME, &optional).unwrap().modules.is_empty());
}

#[test]
fn what_is_wrong_with_a_root_is_said() {
    let root = root();
    let base = root.path().join("usr/lib/modules").join(UNAME);
    assert!(matches!(select(root.path(), UNAME, &wanted(&["broken"])), Err(ModulesError::Module { .. })));
    assert_eq!(kernel_of(root.path()).unwrap(), UNAME);
    for line in ["../../etc/passwd.ko:\n", "/x.ko:\n", "kernel/x.ko\n", "kernel/a.ko: ../b.ko\n"] {
        fs::write(base.join("modules.dep"), line).unwrap();
        let error = select(root.path(), UNAME, &wanted(&["x"])).unwrap_err();
        assert!(matches!(error, ModulesError::Table { line: 1, .. }), "{line}: {error}");
    }
    fs::remove_file(base.join("modules.dep")).unwrap();
    let error = select(root.path(), UNAME, &wanted(&["erofs"])).unwrap_err();
    assert!(error.to_string().contains("run depmod"), "{error}");
    fs::create_dir_all(root.path().join("usr/lib/modules/6.2/kernel")).unwrap();
    assert!(kernel_of(root.path()).unwrap_err().to_string().contains("2 kernels (6.1.0-test, 6.2)"));
    fs::remove_dir_all(root.path().join("usr")).unwrap();
    assert!(kernel_of(root.path()).unwrap_err().to_string().contains("no kernel;"));
}

proptest! {
    #[test]
    fn any_tables_are_read_or_refused(text in "[a-z:/. #\n-]{0,300}", glob in "[a-z*?/]{0,12}") {
        let mut tables = Tables::default();
        let _ = tables.add_dependencies(&text);
        tables.add_aliases(&text);
        tables.add_soft(&format!("softdep a {text}"));
        tables.add_weak(&text);
        tables.add_builtin(&text);
        let chosen: BTreeSet<&str> = tables.matching(&glob).into_iter().collect();
        let _ = tables.reduced(&chosen);
        let _ = tables.nearest(&glob);
    }
}
