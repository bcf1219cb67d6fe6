package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/sshclient"
)

func newCloudEnv(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use: "env", Short: "Print the variables that point any AWS tool at the local cloud",
		Long: `Prints shell commands that point any AWS tool or SDK at the local cloud:
endpoint, keys and region. stead's own choice of a cloud doesn't depend on them.
Version 2.9 and older of aws-cli also need --endpoint-url "$AWS_ENDPOINT_URL".`,
		Example: `  eval "$(stead cloud env)"
  aws ec2 describe-instances`,
		Args: exactly(),
	}, func(ctx context.Context, _ []string) error { return a.cloudEnv(ctx) })
}

func (a *App) cloudEnv(ctx context.Context) error {
	p := a.newProgress()
	defer p.close()
	local, err := a.openLocal(ctx, p, true)
	p.close()
	if err != nil {
		return err
	}
	set := environment(local)
	values := map[string]string{}
	for _, v := range set {
		values[v.name] = v.value
	}
	return a.print(values, func(w io.Writer) {
		// A profile or a session's token would go before the keys.
		fmt.Fprintln(w, "unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN")
		for _, v := range set {
			fmt.Fprintf(w, "export %s=%s\n", v.name, sshclient.Quote([]string{v.value}))
		}
	})
}

// environment names the endpoint for every service, too, so that what an
// earlier shell set for one of them leads nowhere else.
func environment(local *localCloud) []fact {
	i, k := local.info, local.keys
	return []fact{
		{"AWS_ENDPOINT_URL", i.Endpoint},
		{"AWS_ENDPOINT_URL_EC2", i.Endpoint},
		{"AWS_ENDPOINT_URL_SSM", i.Endpoint},
		{"AWS_ENDPOINT_URL_STS", i.Endpoint},
		{"AWS_ACCESS_KEY_ID", k.AccessKeyID},
		{"AWS_SECRET_ACCESS_KEY", k.SecretAccessKey},
		{"AWS_REGION", i.Region},
		{"AWS_DEFAULT_REGION", i.Region},
	}
}
