"""Any network of timm, torchvision or transformers as a backbone."""
