package cli

import "strings"

// How a command does under --dry-run.
type dryRunHow int

const (
	dryRunRefused dryRunHow = iota // it acts past the cloud's API
	dryRunReads                    // it changes nothing anyway, and runs as ever
	dryRunPlans                    // what it would change is its plan
)

// unforeseen is why a command is refused that nobody has thought about.
const unforeseen = "it can't be foreseen"

// dryRunOf tells how a command does under --dry-run, and why not if it
// doesn't. A command that isn't here is refused: whoever adds one says here
// that nothing of it goes past a client of the SDK, server.Guest or the plan.
func dryRunOf(path string) (how dryRunHow, why string) {
	_, name, _ := strings.Cut(path, " ")
	switch name {
	case "create", "adopt", "start", "stop", "reboot", "terminate", "rescue", "rename", "protect", "unprotect", "open", "close",
		"resize", "restore", "clone", "purge", "move", "snapshot", "snapshot rm", "schedule", "prune", "bin",
		"volume create", "volume attach", "volume detach", "volume grow", "volume rm",
		"image durable", "image copy", "image rm", "image build", "image import", "repair", "blocks export", "blocks import":
		return dryRunPlans, ""
	case "ls", "show", "snapshots", "cost", "orphans", "wait", "serial", "price",
		"volume ls", "image ls", "context ls", "context show", "cloud status", "cloud env", "cloud logs",
		"cloud store stats", "cloud store trash", "version", "schedule ls", "doctor":
		return dryRunReads, ""
	case "bin restore":
		return dryRunRefused, "the plan knows nothing of what is in the bin; stead bin shows it"
	case "ssh", "exec", "cp":
		return dryRunRefused, "what it does on the server is yours to know"
	case "cloud start", "cloud stop", "cloud run", "cloud check", "cloud collect", "cloud reset",
		"cloud snapshot", "cloud gc", "cloud interrupt",
		"cloud store check", "cloud store repair", "cloud store undelete", "cloud store empty":
		return dryRunRefused, "it acts on this machine, not through the cloud's API"
	case "context create", "context use", "context rm", "context delete", "ssh-config", "ec2 link", "completion", "man":
		return dryRunRefused, "it changes only files of yours"
	}
	if strings.HasPrefix(name, "ec2 ") {
		return dryRunPlans, ""
	}
	return dryRunRefused, unforeseen
}
