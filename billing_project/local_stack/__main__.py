"""The command line: `python -m billing_project.local_stack run | demo | clean | with-services`."""

import argparse
import os
import sys
from pathlib import Path

from billing_project.local_stack import postgres, stack, throwaway
from billing_project.local_stack.config import read_config, state_dir
from billing_project.local_stack.leftovers import end_leftovers
from billing_project.local_stack.problems import CannotStartError
from billing_project.local_stack.state import hold, is_state_folder, remove

CHECKOUT = Path(__file__).parents[2]

# The demo shows usage arriving at Stripe within seconds; the product's own intervals are minutes.
DEMO_ENVIRONMENT = {"USAGE_FLUSH_SECONDS": "5", "USAGE_DELIVERY_SECONDS": "5"}


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code; 2 means it could not start."""
    options = _parser().parse_args(arguments)
    try:
        return _dispatch(options)
    except CannotStartError as problem:
        print(f"meterkeeper: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the supervisor took the signals over
        return stack.INTERRUPTED


def _dispatch(options: argparse.Namespace) -> int:
    root: Path = options.root.resolve()
    match options.subcommand:
        case "run":
            return stack.run(read_config(root, os.environ))
        case "demo":
            return _demo(root, options)
        case "clean":
            return clean(state_dir(root, os.environ))
        case _:
            return throwaway.run_with_services(
                _command(options),
                broker=options.broker,
                durable=options.durable,
                folder=Path.cwd(),
            )


def _demo(root: Path, options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "billing_project.local_stack.demo"]
    if options.trace:
        if not options.trace.is_file():
            raise CannotStartError(f"There is no trace {options.trace}: TRACE names a CSV file.")
        command.append(f"--trace={options.trace.resolve()}")
    if options.customers:
        command.append(f"--customers={options.customers}")
    if not options.exit:
        command.append("--stays-up")
    for name, value in DEMO_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return stack.run(
        read_config(root, os.environ),
        foreground=stack.Foreground(command, then_stay=not options.exit),
    )


def clean(path: Path) -> int:
    """End what a killed run left and throw the state folder away.

    Raises:
        CannotStartError: the stack is running, or the folder is not one of ours.
    """
    if path.exists() and (is_state_folder(path) or any(path.iterdir())):
        with hold(path, any_format=True) as state:
            end_leftovers(state)
            postgres.remove_account_data(path)
            remove(path)
    return 0


def _command(options: argparse.Namespace) -> list[str]:
    words: list[str] = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not words:
        raise CannotStartError("Say which command to run: with-services [--broker] -- COMMAND.")
    return words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m billing_project.local_stack")
    parser.add_argument(
        "--root",
        type=Path,
        default=CHECKOUT,
        help="the folder of the Procfile, where programs start (default: this checkout)",
    )
    commands = parser.add_subparsers(dest="subcommand", required=True)
    commands.add_parser("run", help="start the whole system and stay until Ctrl-C")
    demo = commands.add_parser("demo", help="start it, bill a trace end to end, show the books")
    demo.add_argument("--trace", type=Path, help="CSV of TIMESTAMP, ContextTokens, GeneratedTokens")
    demo.add_argument("--customers", type=int, help="how many customers share the traffic")
    demo.add_argument("--exit", action="store_true", help="stop the system afterwards")
    commands.add_parser("clean", help="throw the state folder away")
    services = commands.add_parser("with-services", help="run a command with a throwaway database")
    services.add_argument("--broker", action="store_true", help="and a throwaway broker")
    services.add_argument("--durable", action="store_true", help="flush commits to disk")
    services.add_argument("command", nargs=argparse.REMAINDER)
    return parser


if __name__ == "__main__":
    sys.exit(main())
