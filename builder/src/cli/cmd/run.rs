//! `ingot run`

use std::path::Path;

use crate::build::{self, Format, NodePrograms, Request};
use crate::cli::args::{Global, RunArgs};
use crate::cli::printer::Printer;
use crate::cli::{Failure, site};
use crate::image::manifest::Manifest;
use crate::profile::QemuFacts;
use crate::qemu::ImageRef;
use crate::qemu::interactive::{Session, interactive};
use crate::qemu::scenario::Bus;

pub fn run(global: &Global, arguments: &RunArgs, printer: &Printer) -> Result<(), Failure> {
    let site = site(global)?;
    let given = Path::new(&arguments.image);
    // An image says in its manifest which role it is of; QEMU comes from that role's tools.
    let (role, image) = if given.is_file() {
        let manifest = Manifest::read(&given.with_extension("manifest.json")).map_err(|error| {
            Failure::input(format!("{error}; an image is run with the manifest that was built beside it"))
        })?;
        (manifest.image.role, Some(given.to_owned()))
    } else {
        (arguments.image.clone(), None)
    };
    let request = Request {
        roles: std::slice::from_ref(&role),
        out: arguments.out.clone(),
        formats: vec![Format::Raw],
        sector_size: None,
        node: NodePrograms::find(arguments.node_programs.as_deref())?,
    };
    let plan = build::plan(&site, &role, &request)?;
    let image = match image {
        Some(image) => image,
        None => build::build(&site, &plan, &request, printer)?.raw,
    };
    let tools = build::tools(&site, &plan, printer)?.tools;
    let launcher = tools.launcher().map_err(Failure::failed)?;
    let session = Session {
        image: ImageRef {
            path: image.canonicalize().map_err(Failure::failed)?,
            facts: QemuFacts { memory_mib: arguments.memory, cpus: plan.profile().qemu.cpus, disk_gib: arguments.disk },
        },
        sector: plan.profile().image.sector_size,
        bus: Bus::VirtioBlk,
        config: arguments.config.clone(),
    };
    interactive(&session, &launcher, &arguments.out.join("run"), printer).map_err(Failure::failed)
}
