"""The `medai` command. Each command is a few lines; what it does lives below.

Errors are one line on standard error. Exit codes: 0 done, 1 refused or failed, 2 wrong usage;
`medai audit verify` and `medai infer` have their own (see there).
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from configs.settings import Settings
from deployments import runs, runtime
from deployments.commands import db, users
from deployments.commands_audit import audit
from deployments.commands_bench import bench
from deployments.commands_doctor import doctor
from deployments.commands_infer import infer
from deployments.commands_models import initialise, models
from deployments.commands_models_baseline import baseline as model_baseline
from deployments.commands_models_check import check as check_model
from deployments.commands_models_shadow import shadow as shadow_model
from deployments.commands_recover import recover as recover_log
from deployments.commands_verify import verify_log
from deployments.production import refuse_unsafe
from deployments.reporting import reported
from deployments.serving import CONFIG, become_server

app = typer.Typer(
    name="medai",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""MedAI Flow: serve medical-image models, every answer validated and audited.

First steps: `medai init`, `medai serve`, then in another terminal `medai infer FILE`.
Settings are `MEDAI_*` variables (`medai config show`), the topology is `serve_config.yaml`.""",
)
config = typer.Typer(no_args_is_help=True, help="Settings and topology.")
app.add_typer(users, name="users")
models.command("check")(check_model)
models.command("shadow")(shadow_model)
models.command("baseline")(model_baseline)
app.add_typer(models, name="models")
audit.command("verify")(verify_log)
audit.command("recover")(recover_log)
app.add_typer(audit, name="audit")
app.add_typer(db, name="db")
app.add_typer(bench, name="bench")
app.add_typer(config, name="config")
app.command("infer")(infer)
app.command("doctor")(doctor)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help=f"The topology; default: ./{CONFIG}.")
]


@app.command("init")
def init(
    admin: Annotated[bool, typer.Option(help="Add a first administrator.")] = True,
) -> None:
    """Prepare the home directory: database, keys, bundled models, a first administrator."""
    initialise(admin=admin)


@app.command("serve")
def serve(config_file: ConfigFile = None) -> None:
    """Run the service until Ctrl-C or SIGTERM."""
    become_server(config_file)


@app.command("demo")
def demo() -> None:
    """The main job on a real chest film, from an empty directory to a verified record."""
    from deployments.demo import run  # noqa: PLC0415  # brings pydicom along

    console = Console(highlight=False)
    run(Settings.load(), console)
    console.print("demo: ok")


@app.command("env")
def env() -> None:
    """Print Ray's switches as shell exports, for `ray start`: eval "$(medai env)"."""
    settings = Settings.load()
    for name, value in runtime.flags(settings, runs.shared_directory()).items():
        print(f"export {name}={value!r}")  # noqa: T201  # a shell reads it


@config.command("check")
def config_check(
    file: Annotated[Path, typer.Argument(help="A Serve configuration file.")] = Path(CONFIG),
) -> None:
    """Refuse what Ray would ignore, such as misspelt keys; and what is unfit for production."""
    from deployments.config_check import (  # noqa: PLC0415  # brings Ray along
        applications_of,
        read_serve_config,
    )

    settings = Settings.load()
    refuse_unsafe(settings, applications_of(read_serve_config(file)))
    Console().print(f"{file.name} is right")


@config.command("show")
def config_show() -> None:
    """Every setting in force, as JSON; secrets are hidden."""
    settings = Settings.load()
    print(json.dumps(settings.model_dump(mode="json"), indent=2))  # noqa: T201  # for programs


def main() -> None:
    """Run the command line; an error of ours is one line."""
    with reported():
        app()


if __name__ == "__main__":
    main()
