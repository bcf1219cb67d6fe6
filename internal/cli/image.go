package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newImage(a *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "image",
		Aliases: []string{"images"},
		Short:   "List, build, import, copy and remove images",
		Long:    "An image is the idea of a server: the disks to make, and how to boot them.",
		Example: `  stead image ls
  stead image build debian
  stead image durable web --data 10`,
	}
	group(cmd)
	cmd.AddCommand(newImageLs(a), newImageBuild(a), newImageImport(a), newImageDurable(a), newImageCopy(a), newImageRm(a))
	return cmd
}

func newImageLs(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List your images and the aliases",
		Example: "  stead image ls",
		Args:    exactly(),
	}, func(ctx context.Context, _ []string) error {
		s, err := a.open(ctx)
		if err != nil {
			return err
		}
		defer s.close()
		images, err := s.servers.ImageList(ctx)
		s.close()
		if err != nil {
			return err
		}
		return a.print(orEmpty(images), func(w io.Writer) { a.listImages(w, images) })
	})
}

func newImageDurable(a *App) *cobra.Command {
	var o server.DurableOptions
	var data []string
	cmd := &cobra.Command{
		Use:   "durable AMI|SERVER",
		Short: "Make an image whose instances keep their disks",
		Long: `Makes an image from which whatever launches it (the console, Terraform, an
autoscaling group) gets disks that stay when the instance is terminated. Each
--data adds a blank data disk.`,
		Example: `  stead image durable ami-0123456789abcdef0 --name base
  stead image durable web --data 10 --data 100G:/dev/sdh`,
		Args:              exactly("AMI|SERVER"),
		ValidArgsFunction: a.completeImagesAndServers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	cmd.Flags().StringVar(&o.Name, "name", "", "`NAME` of the new image (default derived)")
	cmd.Flags().StringArrayVar(&data, "data", nil, "`SIZE[:DEVICE]` of a data disk; may be repeated")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.Ref = args[0]
		for _, d := range data {
			spec, err := parseDataSpec(d)
			if err != nil {
				return err
			}
			o.Data = append(o.Data, spec)
		}
		return a.imageDurable(ctx, o)
	})
}

func (a *App) imageDurable(ctx context.Context, o server.DurableOptions) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.ensureTiny(ctx, o.Ref); err != nil {
		return err
	}
	made, err := s.servers.ImageDurable(ctx, o)
	s.close()
	if err != nil {
		return err
	}
	return a.print(made, func(w io.Writer) { writeImages(w, []server.Image{*made}) })
}

// listImages writes images with their age.
func (a *App) listImages(w io.Writer, images []server.Image) {
	t := table{heading: []string{"IMAGE", "NAME", "ALIAS", "STATE", "ARCH", "DISKS", "DURABLE", "AGE"}, empty: "no images"}
	for _, i := range images {
		age := ""
		if i.Created != nil {
			age = ageText(a.Now().Sub(*i.Created))
		}
		t.add(append(imageRow(i), age)...)
	}
	t.write(w)
}

func imageRow(i server.Image) []string {
	sizes := []string{itoa(i.SizeGiB)}
	for _, d := range i.DataGiB {
		sizes = append(sizes, itoa(d))
	}
	return []string{i.ID, i.Name, i.Alias, i.State, i.Arch, strings.Join(sizes, "+") + " GiB", yesNo(i.Durable)}
}

func writeImages(w io.Writer, images []server.Image) {
	t := table{
		heading: []string{"IMAGE", "NAME", "ALIAS", "STATE", "ARCH", "DISKS", "DURABLE"},
		empty:   "no images",
	}
	for _, i := range images {
		t.add(imageRow(i)...)
	}
	t.write(w)
}

// ageText tells an age in its largest unit.
func ageText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Hour:
		return fmt.Sprintf("%dm", max(0, d)/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/day)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
