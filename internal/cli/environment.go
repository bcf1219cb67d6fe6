package cli

import "github.com/spf13/cobra"

func newHelpEnvironment() *cobra.Command {
	return &cobra.Command{
		Use:   "environment",
		Short: "The variables and files that stead reads",
		Long: `Which cloud: --context, else STEAD_CONTEXT, else "stead context use", else the
local cloud. AWS_* variables are credentials: they never choose a cloud.

  STEAD_CONTEXT     name of the context
  STEAD_CONFIG_DIR  folder of contexts, ssh key and known hosts
                    (else $XDG_CONFIG_HOME/stead, else ~/.config/stead)
  STEAD_DATA_DIR    folder of the local cloud, as --data-dir
                    (else /var/lib/stead as root, else $XDG_DATA_HOME/stead,
                    else ~/.local/share/stead)
  STEAD_CACHE_DIR   folder of what can be fetched again, such as prices
                    (else $XDG_CACHE_HOME/stead, else ~/.cache/stead)

When stead starts the local cloud by itself:
  STEAD_LISTEN      HOST:PORT of its API, 127.0.0.1:8773 if unset
  STEAD_MACHINES    auto, or none for the API without machines
  STEAD_ACCEL       auto, kvm or tcg
  STEAD_ACCOUNT_ID  twelve digits
  STEAD_TRASH_DAYS  days that a deleted snapshot can be had back (7)
  STEAD_EGRESS      off keeps its machines from reaching the internet

Contexts on AWS and on other endpoints take credentials as all AWS tools do:
the context's profile, else AWS_ACCESS_KEY_ID and its like, else the default
profile, single sign-on, instance roles. AWS_REGION counts for a context on
AWS that has no region of its own.`,
	}
}
