"""How fast a device makes one large product: what its work is held against."""

import time

import torch
from torch import Tensor


def product_rates(device: torch.device, times: int = 20) -> dict[str, float]:
    """Multiplications and additions a second in a product of large square matrices, by precision: bf16, tf32, fp32."""
    side = 8192 if device.type == "cuda" else 256
    rates = {}
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, "highest"),
        ("tf32", torch.float32, "high"),
        ("fp32", torch.float32, "highest"),
    ):
        torch.set_float32_matmul_precision(precision)
        one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

        def products(count: int, one: Tensor = one, other: Tensor = other) -> float:
            """Seconds."""
            start = time.perf_counter()
            for _ in range(count):
                product = one @ other
            product[0, 0].item()  # waits for the device
            return time.perf_counter() - start

        products(3)
        rates[name] = times * side**3 / products(times)
    torch.set_float32_matmul_precision("highest")
    return rates
