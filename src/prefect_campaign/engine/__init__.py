"""The dispatcher: drives one batch from ready to ended, over all other layers; it knows no Prefect."""
