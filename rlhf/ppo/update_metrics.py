"""What an update says of itself, under TRL's names."""

from statistics import fmean, pvariance


def update_metrics(
    seen: list[dict[str, float]], norms: list[dict[str, float]], rates: dict[str, float], *, stopped: bool
) -> dict[str, float]:
    """Means over a step's minibatches.

    Args:
        seen: statistics of each minibatch.
        norms: gradient norms of each update made, before clipping.
        rates: learning rates of policy and critic.
        stopped: whether `target_kl` left out the rest.
    """
    mean = {name: fmean(stats[name] for stats in seen) for name in seen[0]}
    metrics = {
        "loss/policy_avg": mean["policy_loss"],
        "loss/value_avg": mean["value_loss"],
        "policy/approxkl_avg": mean["approxkl"],
        "policy/clipfrac_avg": mean["clipfrac"],
        "policy/entropy_avg": mean["entropy"],
        "policy/num_updates": float(len(norms)),
        "policy/epochs_stopped_early": float(stopped),
        "val/clipfrac_avg": mean["value_clipfrac"],
        "val/ratio": mean["ratio"],
        "val/ratio_max": max(stats["ratio_max"] for stats in seen),
        "val/ratio_var": pvariance(stats["ratio"] for stats in seen),
        "val/first_log_ratio_abs": seen[0]["abs_log_ratio"],
        "lr": rates["policy"],
        "lr_critic": rates["critic"],
    }
    if "ptx_loss" in mean:
        metrics["loss/ptx_avg"] = mean["ptx_loss"]
    if "kl" in mean:
        metrics["loss/kl_avg"] = mean["kl"]
    if norms:
        metrics["policy/grad_norm"] = fmean(made["policy"] for made in norms)
        if "critic" in norms[0]:
            metrics["val/grad_norm"] = fmean(made["critic"] for made in norms)
    return metrics
