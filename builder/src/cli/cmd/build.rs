//! `ingot build`

use crate::build::{self, Built, NodePrograms, Request};
use crate::cli::args::{BuildArgs, Global};
use crate::cli::printer::Printer;
use crate::cli::{Failure, print, print_json, site};
use crate::profile;

pub fn run(global: &Global, arguments: &BuildArgs, printer: &Printer) -> Result<(), Failure> {
    let site = site(global)?;
    if arguments.explain_profile {
        let mut all = Vec::new();
        for role in &arguments.roles {
            let explained = build::sets::load(&site, role)?;
            if global.json {
                let leaves: Vec<_> = explained
                    .merged
                    .leaves()
                    .into_iter()
                    .map(|(key, value, place)| serde_json::json!({ "key": key, "value": value, "place": place.to_string() }))
                    .collect();
                all.push(serde_json::json!({ "role": role, "values": leaves }));
            } else {
                let here = std::env::current_dir().unwrap_or_default();
                print(&profile::explain(&explained, &here));
            }
        }
        if global.json {
            print_json(&all);
        }
        return Ok(());
    }
    let request = Request {
        roles: &arguments.roles,
        out: arguments.out.clone(),
        formats: arguments.output.clone(),
        sector_size: arguments.sector_size.as_ref().and_then(|size| size.parse().ok()),
        node: NodePrograms::find(arguments.node_programs.as_deref())?,
    };
    let mut plans = Vec::new();
    let mut all = Vec::new();
    for role in &arguments.roles {
        let plan = build::plan(&site, role, &request)?;
        if arguments.plan {
            let steps = plan.steps(&site, &request.out, &request.formats);
            if global.json {
                plans.push(serde_json::json!({ "role": role, "steps": steps }));
            } else {
                print(&format!("{role} on {}", plan.profile().base.id));
                for step in steps {
                    let state = if step.cached { "cached" } else { "to do" };
                    print(&format!("  {:<10} {state:<6}  {}  {}", step.name, &step.key[..12], step.what));
                }
            }
            continue;
        }
        let built = build::build(&site, &plan, &request, printer)?;
        if !global.json {
            print(&summary(&built));
        }
        all.push(built);
    }
    if global.json && arguments.plan {
        print_json(&plans);
    } else if global.json {
        print_json(&all);
    }
    Ok(())
}

fn summary(built: &Built) -> String {
    let state = if built.unchanged { "unchanged" } else { "built" };
    format!("{state}  {}  sha256:{}", built.raw.display(), built.sha256)
}
